//! host-sim provides what the filter imports.

use std::collections::BTreeSet;

use host_sim::CompiledModule;

fn listed() -> BTreeSet<String> {
    let file = local_stack::repository().join("filter/imports.txt");
    let text = std::fs::read_to_string(&file).expect("the list is checked in");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(module, name)| format!("{module}.{name}")).collect()
}

#[test]
fn host_sim_provides_every_import_on_the_filters_list() {
    let listed = listed();
    assert!(listed.len() > 20, "{listed:?}");
    // A module with an import that the host does not have is refused, so one that has them all and is not shows it.
    let module = CompiledModule::from_file(local_stack::Artifact::Wasm.find().expect("`make wasm` builds the module"));
    let imported: BTreeSet<String> = module.expect("host-sim provides every import").imports().into_iter().collect();
    assert_eq!(imported, listed, "filter/imports.txt is not what the module imports");
}
