"""Finds import circles: files of one crate that use each other, directly or by way of others.

What counts, for each library, program, test, bench and example of the workspace:

- File A uses file B when a `use` item or a path in A's code names something that B declares, be it through `crate::`, `super::`,
  `self::`, a module's name, or a re-export of another file (the file that declares it is the one that is used).
- `mod b;` and a re-export (`pub use b::X;`) alone are no use of B: they say where things are. A re-exported name that the same
  file also uses is one.
- So a parent that uses its child is in a circle with it as soon as the child uses anything that the parent itself declares. Move
  what both need into a file below both.
- What stands under `#[cfg(test)]` does not count, nor do links in comments.
- Methods are not followed: calling a method names no file.

Prints each circle, and for each of its files the uses that close it.
"""

from pathlib import Path

import rust_source

ROOT = Path(__file__).resolve().parent.parent


def graph(crate):
    """{file: {used file: the first Use}} of a crate."""
    edges = {module.file: {} for module in crate.modules()}
    for use in crate.uses:
        if use.public and (use.name == "*" or use.name not in use.module.words):
            continue
        found = crate.resolve(use.module, use.segments)
        if found is not None and found.file != use.module.file:
            edges[use.module.file].setdefault(found.file, use)
    return edges


def components(edges):
    """Strongly connected components of more than one file, after Tarjan, without recursion."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(edges[target])))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = set()
                    while node not in component:
                        component.add(stack.pop())
                    on_stack -= component
                    if len(component) > 1:
                        found.append(component)
    return found


def circles(crate, root):
    """A text for each circle: its files and, for each, what it uses of the others."""
    edges = graph(crate)
    for component in components(edges):
        lines = []
        for file in sorted(component):
            lines.append(f"  {file.relative_to(root)}")
            for used, use in sorted(edges[file].items()):
                if used in component:
                    lines.append(f"    -> {used.relative_to(root)} (line {use.line}: {'::'.join(use.segments)})")
        yield "\n".join(lines)


def breaches():
    seen = set()
    for package, _, file in rust_source.targets(ROOT):
        for circle in circles(rust_source.Crate(file), ROOT):
            if circle not in seen:
                seen.add(circle)
                yield f"{package}: import circle\n{circle}"
