//! Tests that are written once and run with each binding.

/// Lists tests, each an `async fn(Mode)`, by the bindings that they run with: in a module `wasm`, a module `native`, or both.
///
/// `both` shows what the binding does; its native runs have the sidecar in Envoy. `both_beside_a_sidecar` is for tests that end the
/// sidecar's process or want none. `wasm` and `native` are for what only one of them has; there a comment says why.
#[macro_export]
macro_rules! on_bindings {
    (
        $(both: [$($both:ident),* $(,)?],)?
        $(both_beside_a_sidecar: [$($beside:ident),* $(,)?],)?
        $(wasm: [$($wasm:ident),* $(,)?],)?
        $(native: [$($native:ident),* $(,)?],)?
    ) => {
        mod wasm {
            $($($crate::on_bindings!(@test $both, Wasm);)*)?
            $($($crate::on_bindings!(@test $beside, Wasm);)*)?
            $($($crate::on_bindings!(@test $wasm, Wasm);)*)?
        }
        mod native {
            $($($crate::on_bindings!(@test $both, Native);)*)?
            $($($crate::on_bindings!(@test $beside, NativeSidecar);)*)?
            $($($crate::on_bindings!(@test $native, Native);)*)?
        }
    };
    (@test $test:ident, $mode:ident) => {
        #[tokio::test]
        async fn $test() {
            super::$test($crate::Mode::$mode).await;
        }
    };
}
