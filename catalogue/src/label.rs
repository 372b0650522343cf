//! The labels and their one order.

macro_rules! labels {
    ($($id:ident = $name:literal,)*) => {
        /// A label. The order of the variants is the order in which stat names carry them.
        #[allow(missing_docs, reason = "the label's own name says it")]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Label { $($id,)* }

        impl Label {
            /// Every label, in order.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// Its name in Prometheus.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }
        }
    };
}

labels! {
    Le = "le",
    ModelRewriteName = "model_rewrite_name",
    Status = "status",
    ModelName = "model_name",
    TargetModelName = "target_model_name",
    TargetModel = "target_model",
    Priority = "priority",
    ErrorCode = "error_code",
    PodName = "pod_name",
    Namespace = "namespace",
    Port = "port",
    Name = "name",
    ModelServerPod = "model_server_pod",
    Commit = "commit",
    BuildRef = "build_ref",
    Pool = "pool",
    Endpoint = "endpoint",
    Reason = "reason",
    Outcome = "outcome",
    State = "state",
}
