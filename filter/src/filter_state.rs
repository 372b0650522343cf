//! What an exchange was, where Envoy's access log and spans find it: filter state of the stream, a `google.protobuf.Struct`.

use endpoint_picker::explanation::Explanation;
use prost::Message;

use crate::abi::Refused;
use crate::host;

/// The property; Envoy keeps it as `wasm.inpick`.
const PROPERTY: &str = "inpick";

/// What Envoy's foreign function `declare_property` takes.
#[derive(Message)]
struct DeclarePropertyArguments {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(string, tag = "4")]
    schema: String,
}

/// Envoy's number for a property that is a message, whose type the schema names.
const PROTOBUF: i32 = 3;

/// Says of what type the property is; to be called once for each plugin instance. Without it the log has bytes.
pub(crate) fn declare() -> Result<(), Refused> {
    let arguments = DeclarePropertyArguments {
        name: PROPERTY.to_owned(),
        kind: PROTOBUF,
        schema: "type.googleapis.com/google.protobuf.Struct".to_owned(),
    };
    host::call_foreign_function("declare_property", &arguments.encode_to_vec())
}

/// Tells it of the current stream.
pub(crate) fn tell(explanation: &Explanation) {
    if let Err(refused) = host::set_property(PROPERTY, &explanation.to_struct()) {
        log::warn!("the access log cannot be told of a request: {refused:?}");
    }
}
