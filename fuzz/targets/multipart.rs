#![no_main]
#![doc = "libFuzzer's door to the module of the same name."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::multipart::check(data));
