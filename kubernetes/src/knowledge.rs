//! What the watches of one pool add up to. Pure.

use std::collections::BTreeMap;

use kube::runtime::reflector::store::{Store, Writer};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

use crate::followed::Followed;
use crate::pod::{PodEndpoint, PodObject, endpoints};
use crate::policy::{
    ModelRewrite, ObjectiveObject, POLICY_GROUPS, RewriteObject, objective_resource, priorities, rewrite_resource,
    rewrites,
};
use crate::pool::{FailureMode, PodSource, PoolDefinition, PoolObject};
use crate::watching::Trouble;

/// A pool as the API server has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolView {
    /// Sorted by pod, then by port.
    pub endpoints: Vec<PodEndpoint>,
    /// What its `InferencePool` says; `None`: there is none, or it says nothing.
    pub failure_mode: Option<FailureMode>,
    /// Priorities by names of objectives.
    pub objectives: BTreeMap<String, i64>,
    /// Rewrites, the one that counts first in front.
    pub rewrites: Vec<ModelRewrite>,
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum News {
    Pool(Result<Event<PoolObject>, Trouble>),
    /// Of the watch of that number, each of which has a selector of its own.
    Pods(u64, Result<Event<PodObject>, Trouble>),
    /// Of the group at that position.
    Objectives(usize, Result<Event<ObjectiveObject>, Trouble>),
    Rewrites(usize, Result<Event<RewriteObject>, Trouble>),
}

/// Objects of one kind: the newest list, with the changes since.
struct Cache<K: Resource<DynamicType: Eq + std::hash::Hash + Clone> + Clone + 'static> {
    store: Store<K>,
    writer: Writer<K>,
    state: Listing,
}

/// Whether a list is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listing {
    /// Nobody has answered yet.
    Awaited,
    /// There is a list.
    There,
    /// The server has none for us.
    Absent,
    /// The server could not be asked, and there was no list before.
    Failed,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType: Eq + std::hash::Hash + Clone> + Clone + 'static,
{
    fn new(resource: K::DynamicType) -> Self {
        let writer = Writer::new(resource);
        Self { store: writer.as_reader(), writer, state: Listing::Awaited }
    }

    fn take(&mut self, told: &Result<Event<K>, Trouble>) {
        match told {
            Ok(event) => {
                self.writer.apply_watcher_event(event);
                if matches!(event, Event::InitDone) {
                    self.state = Listing::There;
                }
            }
            Err(Trouble::NoKind(_)) => self.state = Listing::Absent,
            Err(Trouble::Forbidden(..)) if self.state != Listing::There => self.state = Listing::Absent,
            Err(Trouble::Away(_)) if self.state == Listing::Awaited => self.state = Listing::Failed,
            // The last list stands.
            Err(_) => {}
        }
    }
}

/// The `InferencePool`.
#[derive(Debug)]
enum Pool {
    /// Nobody has answered yet.
    Awaited,
    /// A list without it.
    Absent,
    /// As it was last of use.
    Known(PoolDefinition),
}

/// Everything that is known of one pool.
pub(crate) struct Knowledge {
    followed: Followed,
    pool: Pool,
    pool_seen: bool,
    /// What is wrong with the pool itself.
    pool_fault: Option<String>,
    /// Why its watch does not stand.
    pool_trouble: Option<String>,
    pods: Cache<PodObject>,
    /// Pods of a new selector while they are listed; till then those of the old one stand.
    next_pods: Option<Cache<PodObject>>,
    pods_watch: u64,
    pods_trouble: Option<String>,
    objectives: [Cache<ObjectiveObject>; 2],
    rewrites: [Cache<RewriteObject>; 2],
}

impl Knowledge {
    pub(crate) fn new(followed: Followed) -> Self {
        let pool = match &followed {
            Followed::Pods { .. } => Pool::Absent,
            Followed::Pool { .. } => Pool::Awaited,
        };
        Self {
            followed,
            pool,
            pool_seen: false,
            pool_fault: None,
            pool_trouble: None,
            pods: Cache::new(()),
            next_pods: None,
            pods_watch: 0,
            pods_trouble: None,
            objectives: POLICY_GROUPS.map(|group| Cache::new(objective_resource(group))),
            rewrites: POLICY_GROUPS.map(|group| Cache::new(rewrite_resource(group))),
        }
    }

    fn source(&self) -> Option<&PodSource> {
        match (&self.followed, &self.pool) {
            (Followed::Pods { source, .. }, _) => Some(source),
            (_, Pool::Known(definition)) => Some(&definition.pods),
            _ => None,
        }
    }

    /// The watch of pods that is to stand: its number, which goes with its news, and the pods. `None`: nobody knows which pods.
    pub(crate) fn pods_watch(&self) -> Option<(u64, &PodSource)> {
        self.source().map(|source| (self.pods_watch, source))
    }

    pub(crate) fn take(&mut self, news: News) {
        match news {
            News::Pool(told) => self.take_pool(told),
            News::Pods(watch, told) => self.take_pods(watch, told),
            News::Objectives(group, told) => {
                tell_malformed(&told, |object: &ObjectiveObject| object.spec.0.as_ref().err());
                if let Some(cache) = self.objectives.get_mut(group) {
                    cache.take(&told);
                }
            }
            News::Rewrites(group, told) => {
                tell_malformed(&told, |object: &RewriteObject| object.spec.0.as_ref().err());
                if let Some(cache) = self.rewrites.get_mut(group) {
                    cache.take(&told);
                }
            }
        }
    }

    fn take_pool(&mut self, told: Result<Event<PoolObject>, Trouble>) {
        if !matches!(told, Ok(Event::Init) | Err(_)) {
            self.pool_trouble = None;
        }
        match told {
            Ok(Event::Init) => self.pool_seen = false,
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                self.pool_seen = true;
                if object.metadata.deletion_timestamp.is_some() {
                    self.lose_pool();
                    return;
                }
                match PoolDefinition::read(&object.spec) {
                    Ok(definition) => {
                        let held = self.source().map(|source| &source.selector);
                        if held != Some(&definition.pods.selector) {
                            self.pods_watch += 1;
                            self.next_pods = Some(Cache::new(()));
                        }
                        self.pool = Pool::Known(definition);
                        self.pool_fault = None;
                    }
                    Err(error) => self.pool_fault = Some(format!("{}: {error}", self.followed)),
                }
            }
            Ok(Event::InitDone) if self.pool_seen => {}
            Ok(Event::InitDone | Event::Delete(_)) => self.lose_pool(),
            Err(trouble) => self.pool_trouble = Some(trouble.text().to_owned()),
        }
    }

    /// The pool is gone, and its pods are nobody's. Should it return, be it in the same burst, they are listed anew.
    fn lose_pool(&mut self) {
        self.pool = Pool::Absent;
        self.pool_fault = Some(format!("{} does not exist", self.followed));
        self.pods = Cache::new(());
        self.next_pods = None;
        self.pods_trouble = None;
    }

    fn take_pods(&mut self, watch: u64, mut told: Result<Event<PodObject>, Trouble>) {
        if watch != self.pods_watch {
            return;
        }
        tell_malformed(&told, |pod: &PodObject| pod.trouble());
        if let Ok(event) = told {
            told = Ok(event.modify(PodObject::shrink));
        }
        match &told {
            Ok(Event::Init) => {}
            Ok(_) => self.pods_trouble = None,
            Err(trouble) => self.pods_trouble = Some(trouble.text().to_owned()),
        }
        let cache = self.next_pods.as_mut().unwrap_or(&mut self.pods);
        cache.take(&told);
        if cache.state == Listing::There
            && let Some(next) = self.next_pods.take()
        {
            self.pods = next;
        }
    }

    /// Why the newest view may be old.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.pool_trouble.clone().or_else(|| self.pool_fault.clone()).or_else(|| self.pods_trouble.clone())
    }

    /// The server answered a watch that had failed, without any change.
    pub(crate) fn regain(&mut self, is_pool: bool, is_pods: bool) {
        if is_pods {
            self.pods_trouble = None;
        }
        if is_pool && !matches!(self.pool, Pool::Awaited) {
            self.pool_trouble = None;
        }
    }

    /// The pool as it is known; `None`: too little is known yet. Objectives and rewrites are waited for until the server has answered, or could
    /// not: a request that comes before its rewrite would ask for a model that nobody serves.
    pub(crate) fn view(&self) -> Option<PoolView> {
        let (ports, family, pool) = match (&self.followed, &self.pool) {
            (Followed::Pods { source, family, .. }, _) => (&source.ports, *family, None),
            (Followed::Pool { .. }, Pool::Awaited) => return None,
            // Gone after it was there.
            (Followed::Pool { .. }, Pool::Absent) => return (self.pods_watch > 0).then(PoolView::default),
            (Followed::Pool { family, name, .. }, Pool::Known(definition)) => {
                (&definition.pods.ports, *family, Some((name, definition)))
            }
        };
        if self.pods.state != Listing::There {
            return None;
        }
        let listed = self.pods.store.state();
        let endpoints = endpoints(listed.iter().map(AsRef::as_ref), ports, family);
        let Some((name, definition)) = pool else { return Some(PoolView { endpoints, ..PoolView::default() }) };
        let objectives = serving(&self.objectives)?;
        let model_rewrites = serving(&self.rewrites)?;
        Some(PoolView {
            endpoints,
            failure_mode: definition.failure_mode,
            objectives: priorities(objectives.iter().map(AsRef::as_ref), name),
            rewrites: rewrites(model_rewrites.iter().map(AsRef::as_ref), name),
        })
    }
}

/// The objects of the first group that has any kind of them; `None`: a group has not answered yet.
fn serving<K>(caches: &[Cache<K>]) -> Option<Vec<std::sync::Arc<K>>>
where
    K: Resource<DynamicType: Eq + std::hash::Hash + Clone> + Clone + 'static,
{
    if caches.iter().any(|cache| cache.state == Listing::Awaited) {
        return None;
    }
    let serving = caches.iter().find(|cache| cache.state == Listing::There);
    Some(serving.map(|cache| cache.store.state()).unwrap_or_default())
}

/// Tells which object cannot be read, and why.
fn tell_malformed<K: Resource, T: AsRef<str> + ?Sized>(
    told: &Result<Event<K>, Trouble>,
    trouble: impl for<'a> Fn(&'a K) -> Option<&'a T>,
) {
    if let Ok(Event::InitApply(object) | Event::Apply(object)) = told
        && let Some(why) = trouble(object)
    {
        tracing::warn!(object = object.name_any(), why = why.as_ref(), "an object cannot be read and is left out");
    }
}

#[cfg(test)]
mod tests;
