//! Our filter, as it is shipped.

use crate::scenario::{Route, Scenario};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"@","messages":[{"role":"user","content":"hi"}]}"#;
const RESPONSE: &str =
    r#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";
const REWRITE: &str = r#", "model_rewrites": [{"name": "@rw", "model": "@", "targets": [{"model": "@.target"}]}]"#;
const JSON: (&str, &str) = ("content-type", "application/json");

fn sent() -> Scenario {
    Scenario::filter().json(CHAT, BODY)
}

scenarios! {
    a_chat_has_its_response: sent().respond_with(200, "application/json", RESPONSE);

    a_stream_with_usage_has_its_response: sent()
        .respond(200).header("content-type", "text/event-stream")
        .respond_body(EVENT).respond_body(EVENT).respond_body(USAGE).respond_body("data: [DONE]\n\n").respond_end();

    a_list_of_models_passes: Scenario::filter().bodiless("GET", "/v1/models", &[]).respond_with(200, "application/json", "{}");

    a_body_that_is_no_json_is_refused: Scenario::filter().json(CHAT, "nonsense");

    a_body_without_a_model_is_refused: Scenario::filter().json(CHAT, "{}");

    a_destination_of_the_clients_is_taken_away: Scenario::filter()
        .bodiless("GET", "/v1/models", &[("x-gateway-destination-endpoint", "6.6.6.6:6")]).respond_empty(200)
        .bodied(CHAT, &[JSON, ("x-gateway-destination-endpoint", "6.6.6.6:6")]).measured().body(BODY).end()
        .respond_with(200, "application/json", RESPONSE);

    a_model_is_rewritten: Scenario::filter_with(REWRITE).json(CHAT, BODY).respond_with(200, "application/json", RESPONSE);

    a_model_is_rewritten_in_chunks: Scenario::filter_with(REWRITE)
        .bodied(CHAT, &[JSON]).body("{\"mod").body("el\":\"@\",\"mes").body("sages\":[]}").end()
        .respond_with(200, "application/json", RESPONSE);

    a_chat_in_single_bytes: "{\"model\":\"m\"}".bytes()
        .fold(Scenario::filter().bodied(CHAT, &[JSON]), |scenario, byte| scenario.body([byte])).end()
        .respond_with(200, "application/json", RESPONSE);

    a_chat_with_request_trailers: Scenario::filter()
        .bodied(CHAT, &[JSON]).body(BODY).trailers(&[("x-t", "1")]).respond_with(200, "application/json", RESPONSE);

    a_chat_above_the_limit_is_refused: Scenario::filter().limit(32)
        .bodied(CHAT, &[JSON]).body("{\"model\":\"@\",").body("\"messages\":[      ").body("     ").body("]}").end();

    errors_of_an_engine_are_counted: sent().respond_with(500, "application/json", "{}")
        .json(CHAT, BODY).respond_with(503, "application/json", "{}").json(CHAT, BODY).respond_with(404, "application/json", "{}");

    an_engine_resets_before_its_headers: sent().reset();

    an_engine_resets_after_its_headers: sent().respond(200).header("content-type", "text/event-stream").reset();

    an_engine_resets_in_its_stream: sent()
        .respond(200).header("content-type", "text/event-stream").respond_body(EVENT).reset();

    an_engine_is_too_late: Scenario::filter().route(Route::Timeout(50)).json(CHAT, BODY).timed_out();

    a_body_without_a_model_passes_if_it_may: Scenario::filter_with(r#", "missing_model": "pass""#)
        .json(CHAT, "{}").respond_with(200, "application/json", RESPONSE);

    no_engine_is_told_by_the_filter_if_it_shall: Scenario::filter_with(r#", "no_endpoint": "fail_closed""#)
        .route(Route::Nowhere).json(CHAT, BODY);

    no_engine: Scenario::filter().route(Route::Nowhere).json(CHAT, BODY).no_host();

    a_full_engine_is_passed_over: Scenario::filter().route(Route::Retrying)
        .json(CHAT, BODY).retried(503).respond_with(200, "application/json", RESPONSE);

    a_client_leaves_before_its_body: Scenario::filter().bodied(CHAT, &[JSON]).body("{").leave();

    a_client_leaves_before_the_response: sent().leave();

    a_client_leaves_in_the_stream: sent()
        .respond(200).header("content-type", "text/event-stream").respond_body(EVENT).leave();

    a_response_with_trailers: sent()
        .respond(200).header("content-type", "application/json").respond_body(RESPONSE).respond_trailers(&[("x-t", "1")]);

    a_response_without_a_body: sent().respond_empty(200).json(CHAT, BODY).respond_bare(204);

    a_post_without_a_body: Scenario::filter().bodiless("POST", CHAT, &[("content-length", "0")]);

    a_head_request_passes: Scenario::filter().bodiless("HEAD", "/v1/models", &[]).respond_bare(200).header("content-length", "9");

    headers_of_any_bytes_pass_the_filter: Scenario::filter()
        .bodied(CHAT, &[JSON]).header("x-raw", b"a\xff\xfeb").header("x-a", "1").header("x-a", "2").measured().body(BODY).end()
        .respond_with(200, "application/json", RESPONSE);

    a_chat_whose_client_waits_for_100_continue: Scenario::filter()
        .bodied(CHAT, &[JSON, ("expect", "100-continue")]).measured().body(BODY).end().respond_with(200, "application/json", RESPONSE);
}
