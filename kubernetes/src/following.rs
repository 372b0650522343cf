//! All watches of one pool, and what they add up to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::core::Object;
use kube::core::object::NotUsed;
use kube::runtime::watcher::{Config, Event};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::{AbortHandle, JoinSet};

use crate::connection::Connection;
use crate::contact::Contacts;
use crate::followed::Followed;
use crate::knowledge::{Knowledge, News, PoolView};
use crate::pod::PodObject;
use crate::policy::{POLICY_GROUPS, objective_resource, rewrite_resource};
use crate::pool::{POOL_GROUP, PodSource, pool_resource};
use crate::reading::Reading;
use crate::right::{POD_GROUP, ResourceKind};
use crate::watching::{Trouble, WATCH_SECONDS, Watched, watch};

/// Most news that are worked off before what they add up to is looked at.
const BURST: usize = 1024;
/// How often contacts that were lost are looked at: a watch that stands again need not bring any news.
const LOOK: Duration = Duration::from_millis(200);

/// The newest that is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known {
    /// The pool; `None`: too little is known yet.
    pub view: Option<Arc<PoolView>>,
    /// Why it may be old.
    pub trouble: Option<String>,
}

/// Follows for as long as it is polled. The channel always holds the newest; whoever is slow misses what was in between.
pub async fn follow(
    connection: Connection,
    followed: Followed,
    contacts: Arc<Contacts>,
    known: channel::Sender<Known>,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<News>();
    let follower = Follower { connection, followed, contacts, sender };
    let mut knowledge = Knowledge::new(follower.followed.clone());
    let mut watches = JoinSet::new();
    if let Followed::Pool { name, .. } = &follower.followed {
        follower.watch_pool(&mut watches, name);
    }
    let mut pods: Option<(u64, AbortHandle)> = None;
    let mut burst = Vec::new();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let wanted = knowledge.pods_watch();
        if pods.as_ref().map(|(number, _)| *number) != wanted.map(|(number, _)| number) {
            if let Some((_, watch)) = pods.take() {
                watch.abort();
            }
            pods = wanted.map(|(number, source)| (number, follower.watch_pods(&mut watches, source, number)));
        }
        tokio::select! {
            // The sender lives as long as this.
            _ = receiver.recv_many(&mut burst, BURST) => {}
            _ = looks.tick() => {
                if knowledge.trouble().is_none() {
                    continue;
                }
                let is_back = |kind| !follower.contacts.of(kind).is_lost();
                knowledge.regain(is_back(ResourceKind::Pool), is_back(ResourceKind::Pods));
            }
        }
        for news in burst.drain(..) {
            knowledge.take(news);
        }
        let trouble = knowledge.trouble();
        let view = knowledge.view();
        known.send_if_modified(|known| {
            let is_new = known.trouble != trouble || (view.is_some() && known.view.as_deref() != view.as_ref());
            if is_new {
                known.trouble = trouble;
                if view.is_some() && known.view.as_deref() != view.as_ref() {
                    known.view = view.map(Arc::new);
                }
            }
            is_new
        });
    }
}

struct Follower {
    connection: Connection,
    followed: Followed,
    contacts: Arc<Contacts>,
    sender: mpsc::UnboundedSender<News>,
}

impl Follower {
    fn watched(&self, group: &'static str, kind: ResourceKind, config: Config) -> Watched {
        Watched {
            connection: self.connection.clone(),
            contacts: Arc::clone(&self.contacts),
            group,
            kind,
            config: config.timeout(WATCH_SECONDS),
            is_optional: matches!(kind, ResourceKind::Objectives | ResourceKind::Rewrites),
        }
    }

    fn watch_pool(&self, watches: &mut JoinSet<()>, name: &str) {
        let this = Config::default().fields(&format!("metadata.name={name}"));
        let pool = self.watched(POOL_GROUP, ResourceKind::Pool, this);
        self.watch_objects(watches, pool, pool_resource(), News::Pool);
        for (position, group) in POLICY_GROUPS.into_iter().enumerate() {
            let objectives = self.watched(group, ResourceKind::Objectives, Config::default());
            let news = move |told| News::Objectives(position, told);
            self.watch_objects(watches, objectives, objective_resource(group), news);
            let rewrites = self.watched(group, ResourceKind::Rewrites, Config::default());
            let news = move |told| News::Rewrites(position, told);
            self.watch_objects(watches, rewrites, rewrite_resource(group), news);
        }
    }

    fn watch_objects<S>(
        &self,
        watches: &mut JoinSet<()>,
        watched: Watched,
        resource: kube::core::ApiResource,
        news: impl Fn(Result<Event<Object<Reading<S>, NotUsed>>, Trouble>) -> News + Send + Sync + 'static,
    ) where
        S: Clone + fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        let namespace = self.followed.namespace().to_owned();
        let sender = self.sender.clone();
        watches.spawn(async move {
            let api = |client| Api::<Object<Reading<S>, NotUsed>>::namespaced_with(client, &namespace, &resource);
            watch(watched, api, |told| sender.send(news(told)).is_ok()).await;
        });
    }

    fn watch_pods(&self, watches: &mut JoinSet<()>, source: &PodSource, number: u64) -> AbortHandle {
        let watched = self.watched(POD_GROUP, ResourceKind::Pods, Config::default().labels(source.selector.as_str()));
        let namespace = self.followed.namespace().to_owned();
        let sender = self.sender.clone();
        watches.spawn(async move {
            let api = |client| Api::<PodObject>::namespaced(client, &namespace);
            watch(watched, api, |told| sender.send(News::Pods(number, told)).is_ok()).await;
        })
    }
}
