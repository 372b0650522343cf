//! Clients that have conversations: each sends its next turn when it has the answer to the last one.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use local_stack::HttpClient;
use serde_json::Value;
use simulation::Conversation;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::table::{Answer, Outcome};

/// Far beyond what a queue here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has all conversations at a URL, each at its time, and waits for the last answer.
pub(crate) async fn have(url: &str, conversations: Vec<Conversation>) -> Vec<Outcome> {
    let client = HttpClient::new().with_timeout(PATIENCE);
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for conversation in conversations {
        let (client, url) = (client.clone(), url.to_owned());
        clients.spawn(async move {
            tokio::time::sleep_until(started + conversation.begins).await;
            let mut outcomes = Vec::new();
            for turn in conversation.turns {
                tokio::time::sleep(turn.pause).await;
                outcomes.push(ask(&client, &url, turn.body).await.map_err(|error| format!("{error:#}")));
            }
            outcomes
        });
    }
    let mut outcomes = Vec::new();
    while let Some(done) = clients.join_next().await {
        match done {
            Ok(seen) => outcomes.extend(seen),
            Err(error) => outcomes.push(Err(error.to_string())),
        }
    }
    outcomes
}

async fn ask(client: &HttpClient, url: &str, body: String) -> anyhow::Result<Answer> {
    let response = client.post_json(url, body).await?;
    ensure!(response.status == 200, "status {}: {}", response.status, response.text());
    let events = response.events();
    let [.., usage, done] = &events[..] else { anyhow::bail!("the stream has {} events", events.len()) };
    ensure!(done == "[DONE]", "the stream ends with {done}");
    let report: Value = serde_json::from_str(usage).context("the last event")?;
    let tokens = |path| report.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path} in {usage}"));
    Ok(Answer {
        first_token: response.first_byte,
        prompt_tokens: tokens("/usage/prompt_tokens")?,
        cached_tokens: tokens("/usage/prompt_tokens_details/cached_tokens")?,
    })
}
