//! The endings that both bindings share.

use crate::scenarios::{self, each_ending};

each_ending!(tests);
