//! One watch that goes on whatever the API server does.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::connection::Connection;
use crate::contact::Contacts;
use crate::policy::POLICY_VERSION;
use crate::right::{ResourceKind, Right, Verb};

/// Pause after the first failure; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between tries to reach a server that is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Pause while the server has no such kind, or keeps it from us: somebody may install it, or grant it.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
/// After so long without success everything begins anew, with a list and with the credentials as their files are then.
const RENEW_AFTER: Duration = Duration::from_secs(30);
/// The server ends a watch after so many seconds, and it is taken up where it was. A server that is gone without a word is noticed 5 s
/// after that.
pub(crate) const WATCH_SECONDS: u32 = 30;

/// Why a watch does not stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// The server has no such kind.
    NoKind(String),
    /// We may not do that.
    Forbidden(Verb, String),
    /// The server is away, or does not do what it should.
    Away(String),
}

impl Trouble {
    fn of(error: &watcher::Error, kind: ResourceKind) -> Self {
        let verb = match error {
            watcher::Error::InitialListFailed(_) => Verb::List,
            _ => Verb::Watch,
        };
        let (watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause)) = error
        else {
            return match error {
                watcher::Error::WatchError(status) => Self::of_status(status, verb, kind),
                error => Self::Away(format!("{}: {error}", kind.plural())),
            };
        };
        match cause {
            kube::Error::Api(status) => Self::of_status(status, verb, kind),
            cause => Self::Away(format!("the API server is away: {}", chain(cause))),
        }
    }

    fn of_status(status: &kube::core::Status, right: Verb, kind: ResourceKind) -> Self {
        let (verb, plural) = (right.as_str(), kind.plural());
        match status.code {
            404 => Self::no_kind(kind),
            403 => Self::Forbidden(
                right,
                format!(
                    "the right to {verb} {plural} is missing: {}; the sidecar needs list and watch on {plural}",
                    status.message
                ),
            ),
            401 => Self::Away("the API server does not know our token (401)".to_owned()),
            code => Self::Away(format!("the API server answers {code} to {verb} {plural}: {}", status.message)),
        }
    }

    fn no_kind(kind: ResourceKind) -> Self {
        let plural = kind.plural();
        Self::NoKind(format!("the API server has no {plural}: their CustomResourceDefinition is not installed"))
    }

    /// What to tell an operator.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::NoKind(text) | Self::Forbidden(_, text) | Self::Away(text) => text,
        }
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// What is watched, and how it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) connection: Connection,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) group: &'static str,
    pub(crate) kind: ResourceKind,
    pub(crate) config: watcher::Config,
    /// Whether the kind may be absent or kept from us without anything being wrong.
    pub(crate) is_optional: bool,
}

impl Watched {
    /// The server refuses also what it does not have. A cluster without the kind lacks no right; whoever may ask anything may ask which kinds
    /// there are.
    async fn unless_absent(&self, client: &Client, trouble: Trouble) -> Trouble {
        match client.list_api_group_resources(&format!("{}/{POLICY_VERSION}", self.group)).await {
            Ok(list) if list.resources.iter().any(|resource| resource.name == self.kind.plural()) => trouble,
            Err(kube::Error::Api(status)) if status.code == 404 => Trouble::no_kind(self.kind),
            Ok(_) => Trouble::no_kind(self.kind),
            Err(_) => trouble,
        }
    }

    /// Notes which right is missing, and tells it if it is news: nothing else shows that an optional kind is kept from us.
    fn note(&self, trouble: &Trouble) {
        let right = |verb| Right { group: self.group, kind: self.kind, verb };
        match trouble {
            Trouble::Forbidden(verb, text) if self.contacts.refuse(right(*verb)) && self.is_optional => {
                tracing::warn!(group = self.group, problem = text.as_str(), "a right is missing");
            }
            Trouble::NoKind(_) => {
                for verb in Verb::ALL {
                    self.contacts.grant(right(verb));
                }
            }
            Trouble::Forbidden(..) | Trouble::Away(_) => {}
        }
    }
}

/// Watches until `tell` returns false. Events come as the library gives them; a trouble comes after each try that failed.
pub(crate) async fn watch<K>(
    watched: Watched,
    api: impl Fn(Client) -> Api<K>,
    mut tell: impl FnMut(Result<Event<K>, Trouble>) -> bool,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let contact = watched.contacts.of(watched.kind);
    let mut pause = FIRST_PAUSE;
    loop {
        let client = watched.connection.client(Arc::clone(&watched.contacts), watched.group, watched.kind).await;
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                contact.lose();
                if !tell(Err(Trouble::Away(error.to_string()))) {
                    return;
                }
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        let mut events = pin!(watcher(api(client.clone()), watched.config.clone()));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    if !tell(Ok(event)) {
                        return;
                    }
                    continue;
                }
                Err(error) => error,
            };
            // A version that is too old is no failure: the list that follows tells.
            if matches!(&error, watcher::Error::WatchError(status) if status.code == 410) {
                continue;
            }
            if !contact.is_lost() {
                pause = FIRST_PAUSE;
            }
            let mut trouble = Trouble::of(&error, watched.kind);
            if watched.is_optional && matches!(trouble, Trouble::Forbidden(..)) {
                trouble = watched.unless_absent(&client, trouble).await;
            }
            watched.note(&trouble);
            let is_absent = !matches!(trouble, Trouble::Away(_));
            if is_absent && watched.is_optional {
                contact.regain();
            } else {
                contact.lose();
            }
            if !tell(Err(trouble)) {
                return;
            }
            tokio::time::sleep(if is_absent { ABSENT_PAUSE } else { pause }).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Where the kind was absent there is nothing to take up again.
            if is_absent || contact.lost_for() > RENEW_AFTER {
                break;
            }
        }
    }
}
