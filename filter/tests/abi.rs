//! The filter's numbers of the ABI are those of the SDK.

use proxy_wasm::types::{Action, BufferType, MapType, Status};

#[path = "../src/abi.rs"]
#[allow(dead_code, unreachable_pub, reason = "the filter's file, of which this reads the numbers only")]
mod abi;

#[test]
fn numbers_are_those_of_the_sdk() {
    assert_eq!(abi::OK, Status::Ok as u32);
    assert_eq!(abi::CAS_MISMATCH.0, Status::CasMismatch as u32);
    assert_eq!(abi::FOREIGN_MEMORY.0, Status::InternalFailure as u32);
    assert_eq!(
        [abi::Action::Continue as u32, abi::Action::Pause as u32],
        [Action::Continue as u32, Action::Pause as u32]
    );
    let maps = [abi::Map::Request, abi::Map::Response, abi::Map::CallResponse].map(|map| map as u32);
    let theirs = [MapType::HttpRequestHeaders, MapType::HttpResponseHeaders, MapType::HttpCallResponseHeaders];
    assert_eq!(maps, theirs.map(|map| map as u32));
    let buffers = [
        abi::Buffer::RequestBody,
        abi::Buffer::ResponseBody,
        abi::Buffer::CallResponseBody,
        abi::Buffer::PluginConfiguration,
    ];
    let theirs = [
        BufferType::HttpRequestBody,
        BufferType::HttpResponseBody,
        BufferType::HttpCallResponseBody,
        BufferType::PluginConfiguration,
    ];
    assert_eq!(buffers.map(|buffer| buffer as u32), theirs.map(|buffer| buffer as u32));
}
