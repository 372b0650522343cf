//! Requests go where the beginning of their prompt is cached.

use std::time::Duration;

use local_stack::{Builder, HttpClient, Stack};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode};

tests::on_bindings! {
    both: [every_turn_of_a_conversation_goes_to_the_pod_that_has_it, conversations_of_one_family_share_what_they_begin_with, another_salt_and_another_model_share_nothing, a_second_worker_finds_what_the_first_one_sent_within_a_second],
}

const PODS: usize = 4;
const TURNS: usize = 4;
/// Tokens of the beginning that the turns of a conversation share; a simulated token is four bytes.
const SHARED_TOKENS: usize = 1_500;

/// Pods on which a prompt takes long enough to be worth a cache: 20 ms, and 0.1 ms a token that is not in it.
fn pods(mode: Mode) -> Builder {
    Stack::builder().mode(mode).pods(PODS).vllm_sim_args([
        "--timing-model=apart",
        "--prefill-us=100",
        "--inter-token-latency-ms=1",
        "--enable-prompt-tokens-details",
    ])
}

/// A conversation whose text nobody else has.
#[derive(Clone, Debug)]
struct Conversation {
    name: String,
    messages: Vec<Value>,
    salt: Option<&'static str>,
    model: &'static str,
}

/// What an answer says.
#[derive(Clone, Copy, Debug)]
struct Served {
    pod: usize,
    prompt_tokens: u64,
    cached_tokens: u64,
}

impl Conversation {
    fn new(name: &str) -> Self {
        let words = format!("{name} knows of pods and queues. ");
        let shared = words.repeat(SHARED_TOKENS * 4 / words.len());
        let messages = vec![json!({"role": "system", "content": shared})];
        Self { name: name.to_owned(), messages, salt: None, model: MODEL }
    }

    fn body(&mut self) -> Value {
        let turn = self.messages.len();
        self.messages.push(json!({"role": "user", "content": format!("Question {turn} of {}?", self.name)}));
        let mut body = json!({
            "model": self.model, "messages": self.messages, "max_tokens": 2, "stream": true,
            "stream_options": {"include_usage": true},
        });
        if let Some(salt) = self.salt {
            body["cache_salt"] = json!(salt);
        }
        self.messages.push(json!({"role": "assistant", "content": "It is so."}));
        body
    }

    /// The next turn.
    async fn turn(&mut self, gateway: &Gateway) -> Served {
        self.turn_by(&gateway.client, gateway).await
    }

    /// The next turn, over that client's connection.
    async fn turn_by(&mut self, client: &HttpClient, gateway: &Gateway) -> Served {
        let reply = client.post_json(&gateway.url("/v1/chat/completions"), self.body().to_string()).await.unwrap();
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        let events = reply.events();
        let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
        let tokens = |path| usage.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {usage}"));
        Served {
            pod: gateway.pod_of(&reply),
            prompt_tokens: tokens("/usage/prompt_tokens"),
            cached_tokens: tokens("/usage/prompt_tokens_details/cached_tokens"),
        }
    }
}

async fn every_turn_of_a_conversation_goes_to_the_pod_that_has_it(mode: Mode) {
    let gateway = Gateway::start(pods(mode).workers(1)).await;
    let mut conversations: Vec<_> = (0..8).map(|number| Conversation::new(&format!("Person {number}"))).collect();
    let mut seen: Vec<Vec<Served>> = vec![Vec::new(); conversations.len()];
    for _ in 0..TURNS {
        for (conversation, seen) in conversations.iter_mut().zip(&mut seen) {
            seen.push(conversation.turn(&gateway).await);
        }
    }
    let (mut cached, mut possible) = (0, 0);
    for turns in &seen {
        assert!(turns.iter().all(|turn| turn.pod == turns[0].pod), "{turns:?}");
        assert_eq!(turns[0].cached_tokens, 0, "nobody else has it: {turns:?}");
        for pair in turns.windows(2) {
            cached += pair[1].cached_tokens;
            possible += pair[0].prompt_tokens;
        }
    }
    assert!(cached * 10 >= possible * 8, "{cached} of {possible} tokens were cached");
    let pods: std::collections::BTreeSet<_> = seen.iter().map(|turns| turns[0].pod).collect();
    assert!(pods.len() > 1, "all conversations are on one pod");
}

async fn conversations_of_one_family_share_what_they_begin_with(mode: Mode) {
    let gateway = Gateway::start(pods(mode).workers(1)).await;
    let family = Conversation::new("The house");
    let first = family.clone().turn(&gateway).await;
    for number in 0..6 {
        let mut other = Conversation { name: format!("Guest {number}"), ..family.clone() };
        let served = other.turn(&gateway).await;
        assert!(served.cached_tokens * 10 >= first.prompt_tokens * 8, "{served:?} after {first:?}");
        assert_eq!(served.pod, first.pod, "all pods are idle");
    }
}

async fn another_salt_and_another_model_share_nothing(mode: Mode) {
    let args = ["--lora-modules=sql-adapter,chat-adapter", "--max-loras=2"];
    let gateway = Gateway::start(pods(mode).vllm_sim_args(args).workers(1)).await;
    // Many, so that they cannot be on one pod by chance; each has its text from the same conversation.
    let plain = Conversation::new("The same");
    let begun = plain.clone().turn(&gateway).await;
    let mut others = vec![];
    for salt in ["one", "two", "three", "four", "five", "six", "seven", "eight"] {
        others.push(Conversation { salt: Some(salt), ..plain.clone() });
    }
    for model in ["sql-adapter", "chat-adapter"] {
        others.push(Conversation { model, ..plain.clone() });
    }
    let mut elsewhere = 0;
    for other in &mut others {
        let first = other.turn(&gateway).await;
        assert_eq!(first.cached_tokens, 0, "{other:?} found what another has");
        elsewhere += usize::from(first.pod != begun.pod);
        let second = other.turn(&gateway).await;
        assert_eq!(second.pod, first.pod, "{first:?} {second:?}");
        assert!(second.cached_tokens * 10 >= first.prompt_tokens * 8, "{first:?} {second:?}");
    }
    assert!(elsewhere > 0, "all of them went where the first one is");
}

async fn a_second_worker_finds_what_the_first_one_sent_within_a_second(mode: Mode) {
    // A new connection goes to the worker that has fewer.
    let stack = pods(mode).workers(2).patch(|tree| {
        tree["static_resources"]["listeners"][0]["connection_balance_config"] = json!({"exact_balance": {}});
    });
    let gateway = Gateway::start(stack).await;
    let clients = [HttpClient::new(), HttpClient::new()];
    // In the first round the second worker has served nothing at all yet.
    for number in 0..PODS {
        let mut conversation = Conversation::new(&format!("Somebody {number}"));
        // Not where both workers would begin it anyway.
        for pod in 0..PODS {
            let waiting = if pod == number { 0 } else { 60 };
            gateway.pin(pod, json!({"waiting": waiting, "running": 8})).await;
        }
        let first = conversation.turn_by(&clients[number % 2], &gateway).await;
        assert_eq!(first.pod, number, "the others have long queues");
        for pod in 0..PODS {
            gateway.pin_unseen(pod, json!({})).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = conversation.turn_by(&clients[(number + 1) % 2], &gateway).await;
        assert_eq!(next.pod, first.pod, "conversation {number}: {first:?} {next:?}");
        assert!(next.cached_tokens * 10 >= first.prompt_tokens * 8, "conversation {number}: {first:?} {next:?}");
    }
    let stats = gateway.admin_get("/stats?filter=worker_.*downstream_cx_total").await.unwrap().text();
    let counts: Vec<u64> = stats
        .lines()
        .filter(|line| line.starts_with("listener.127"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .collect();
    assert_eq!(counts, [1, 1], "each worker had one connection: {stats}");
}
