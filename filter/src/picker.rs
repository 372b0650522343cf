//! The endpoint picker that an instance of the filter and its streams share.

use std::cell::RefCell;
use std::rc::Rc;

use endpoint_picker::EndpointPicker;

/// One virtual machine has one thread; borrows last for one callback.
pub(crate) type SharedPicker = Rc<RefCell<EndpointPicker>>;
