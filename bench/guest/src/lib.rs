//! Two filters to compare with. The plugin's configuration names one: empty is a filter that does nothing, anything else is a
//! list of destinations, `ip:port,ip:port`, for a filter that makes only those host calls without which no body-reading picker
//! can do: one read of each header map, one of each body, one header written, one property.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, MapType};
use std::cell::Cell;
use std::rc::Rc;

const DESTINATION_HEADER: &str = "x-gateway-destination-endpoint";

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    destinations: Rc<Vec<Vec<u8>>>,
    next: Rc<Cell<usize>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let list = self.get_plugin_configuration().unwrap_or_default();
        let destinations = list.split(|byte| *byte == b',').filter(|one| !one.is_empty());
        self.destinations = Rc::new(destinations.map(<[u8]>::to_vec).collect());
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        if self.destinations.is_empty() {
            return Some(Box::new(Nothing));
        }
        Some(Box::new(Floor { destinations: Rc::clone(&self.destinations), next: Rc::clone(&self.next) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Nothing;

impl Context for Nothing {}
impl HttpContext for Nothing {}

struct Floor {
    destinations: Rc<Vec<Vec<u8>>>,
    next: Rc<Cell<usize>>,
}

impl Context for Floor {}

impl HttpContext for Floor {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        let _ = hostcalls::get_map_bytes(MapType::HttpRequestHeaders);
        if end { Action::Continue } else { Action::Pause }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        let _ = hostcalls::get_buffer(BufferType::HttpRequestBody, 0, size);
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        if let Some(destination) = self.destinations.get(turn % self.destinations.len().max(1)) {
            let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, DESTINATION_HEADER, Some(destination));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let _ = hostcalls::get_map_bytes(MapType::HttpResponseHeaders);
        let _ = hostcalls::get_property(vec!["upstream", "address"]);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, _: bool) -> Action {
        if size > 0 {
            let _ = hostcalls::get_buffer(BufferType::HttpResponseBody, 0, size);
        }
        Action::Continue
    }
}
