//! The main thread's part: the core's machines between requests, one for each instance of the filter, driven by one timer.

use std::cell::RefCell;
use std::sync::Arc;

use catalogue::{Label, Stat};
use endpoint_picker::config::{ServiceConfig, StatsConfig};
use endpoint_picker::flusher::{Flusher, HostStats};
use endpoint_picker::holder::{BUILD, Binding};
use endpoint_picker::ledger::{Ledger, SinkKind};
use endpoint_picker::shared_data::{SetError, SharedData};
use endpoint_picker::snapshot_service::{News, SidecarRequest, SidecarResponse};
use endpoint_picker::worker::Worker;
use endpoint_picker::{EndpointPicker, Timestamp};

use crate::clock;
use crate::envoy::{Callout, ExtensionConfig, Timer};
use crate::panics;
use crate::process::{Instance, process, wake_next};
use crate::sidecar::{Answer, Sidecar, Told};
use crate::stats::Stats;

/// While there is no filter, one may come: with a listener that is added later.
const IDLE_MILLIS: u32 = 500;
/// Faults of our own reach Envoy this often.
const FLUSH_INTERVAL_MILLIS: u64 = 1_000;

/// The bootstrap extension.
#[derive(Debug)]
pub(crate) struct MainThread {
    turn: RefCell<Turn>,
}

/// What the extension has, for the length of one hook.
#[derive(Debug)]
struct Turn {
    stats: Stats,
    timer: Option<Timer>,
    members: Vec<Member>,
    /// What no instance counts: the start, and faults of the module.
    ledger: Ledger,
    /// There was an instance.
    is_started: bool,
    flusher: Flusher,
    told: Told,
}

/// One instance of the filter, and its worker between requests.
#[derive(Debug)]
struct Member {
    instance: Arc<Instance>,
    worker: Worker,
    pace: Pace,
    call: Option<Callout>,
    /// The sidecar in this process that it asks, if its document has one.
    sidecar: Option<Arc<Sidecar>>,
}

/// When a member has its next turn.
#[derive(Debug)]
struct Pace {
    period_millis: u32,
    due_at: Timestamp,
}

impl MainThread {
    /// The extension as it is configured. `sidecar`: where its document says that snapshots come from.
    pub(crate) fn new(envoy: &mut ExtensionConfig<'_>, sidecar: Option<ServiceConfig>) -> Self {
        process().begin_main_thread(sidecar);
        let turn = Turn {
            stats: Stats::define(envoy),
            timer: None,
            members: Vec::new(),
            ledger: Ledger::new(StatsConfig::default()),
            is_started: false,
            flusher: Flusher::default(),
            told: Told::default(),
        };
        Self { turn: RefCell::new(turn) }
    }

    /// The server is up: clusters can be called, and time runs.
    pub(crate) fn begin(&self, envoy: &mut ExtensionConfig<'_>) {
        let Ok(mut turn) = self.turn.try_borrow_mut() else { return };
        let timer = turn.timer.take().unwrap_or_else(|| envoy.timer());
        envoy.enable(&timer, 1);
        turn.timer = Some(timer);
    }

    /// The timer fired.
    pub(crate) fn tick(&self, envoy: &mut ExtensionConfig<'_>) {
        let Ok(mut turn) = self.turn.try_borrow_mut() else { return };
        let now = clock::now();
        turn.take_in(envoy);
        turn.run(envoy, now);
        turn.retire(envoy);
        turn.flush(envoy, now);
        turn.keep_pace(envoy);
    }

    /// The timer goes on whatever became of its last turn.
    pub(crate) fn keep_on(&self, envoy: &mut ExtensionConfig<'_>) {
        if let Ok(turn) = self.turn.try_borrow() {
            turn.keep_pace(envoy);
        }
    }

    /// A cluster answered a call; `None`: it did not.
    pub(crate) fn handle_response(
        &self,
        envoy: &mut ExtensionConfig<'_>,
        call: Callout,
        response: Option<SidecarResponse<'_>>,
    ) {
        let Ok(mut turn) = self.turn.try_borrow_mut() else { return };
        let Turn { stats, members, .. } = &mut *turn;
        if let Some(member) = members.iter_mut().find(|member| member.call == Some(call)) {
            member.call = None;
            let Member { worker, pace, call, .. } = member;
            let mut host = Host { envoy, stats, pace, call, sidecar: None, answered: &mut None };
            worker.handle_response(&mut host, response);
        }
    }

    /// The server stops: everything that is known reaches Envoy's stats.
    pub(crate) fn finish(&self, envoy: &mut ExtensionConfig<'_>) {
        let Ok(mut turn) = self.turn.try_borrow_mut() else { return };
        let Turn { stats, timer, members, ledger, flusher, .. } = &mut *turn;
        for mut member in members.drain(..) {
            member.finish(envoy, stats);
        }
        count_panics(ledger);
        let (mut pace, mut call) = (Pace::default(), None);
        flusher.finish(
            ledger,
            &mut Host { envoy, stats, pace: &mut pace, call: &mut call, sidecar: None, answered: &mut None },
        );
        if let Some(timer) = timer.take() {
            envoy.delete(timer);
        }
    }
}

impl Turn {
    /// Gives each new instance a worker.
    fn take_in(&mut self, envoy: &mut ExtensionConfig<'_>) {
        let Self { stats, members, ledger, is_started, .. } = self;
        for instance in process().instances() {
            if members.iter().any(|member| Arc::ptr_eq(&member.instance, &instance)) {
                continue;
            }
            // There is no machine to start but the process; a further instance is another configuration.
            if !std::mem::replace(is_started, true) {
                ledger.count(Stat::VmStartsTotal, &[]);
            }
            let worker = instance.with_keeper(|picker| Worker::new(clock::random(), picker, BUILD));
            let flags = instance.with_keeper(|picker| picker.config().sidecar.embedded.clone());
            let sidecar = flags.and_then(|flags| {
                let running = members.iter().filter_map(|member| member.sidecar.as_ref());
                let same = running.into_iter().find(|sidecar| sidecar.has(&flags)).cloned();
                same.or_else(|| Sidecar::start(flags))
            });
            let mut member = Member { instance, worker, pace: Pace::default(), call: None, sidecar };
            // It serves from the first moment: there is one for all threads, so nobody else would know what it needs.
            member.step(envoy, stats, |worker, picker, host| worker.request_came(picker, host));
            members.push(member);
        }
    }

    fn run(&mut self, envoy: &mut ExtensionConfig<'_>, now: Timestamp) {
        let Self { stats, members, .. } = self;
        for member in members.iter_mut().filter(|member| member.pace.due_at <= now) {
            member.step(envoy, stats, |worker, picker, host| worker.tick(picker, host));
            if member.instance.has_flow_control() {
                member.instance.with_keeper(wake_next);
            }
            member.pace.due_at = now.plus_micros(u64::from(member.pace.period_millis) * 1_000);
        }
    }

    /// Lets go of instances that no filter and no stream has any more.
    fn retire(&mut self, envoy: &mut ExtensionConfig<'_>) {
        /// The process and the member.
        const OWNERS: usize = 2;
        let Self { stats, members, .. } = self;
        members.retain_mut(|member| {
            if Arc::strong_count(&member.instance) > OWNERS {
                return true;
            }
            member.finish(envoy, stats);
            process().remove(&member.instance);
            false
        });
    }

    fn flush(&mut self, envoy: &mut ExtensionConfig<'_>, now: Timestamp) {
        let Self { stats, ledger, flusher, members, told, .. } = self;
        count_panics(ledger);
        for Member { instance, sidecar, .. } in members.iter() {
            if let Some(sidecar) = sidecar {
                told.count(instance.pool(), sidecar, ledger);
            }
        }
        let (mut pace, mut call) = (Pace::default(), None);
        let mut host = Host { envoy, stats, pace: &mut pace, call: &mut call, sidecar: None, answered: &mut None };
        flusher.tick(ledger, &mut host, FLUSH_INTERVAL_MILLIS, now);
    }

    fn keep_pace(&self, envoy: &mut ExtensionConfig<'_>) {
        let Some(timer) = &self.timer else { return };
        let now = clock::now();
        let next = self.members.iter().map(|member| member.pace.due_at).min();
        let millis = next.map_or(u64::from(IDLE_MILLIS), |due_at| due_at.micros_since(now).div_ceil(1_000));
        envoy.enable(timer, millis.clamp(1, u64::from(IDLE_MILLIS)));
    }
}

impl Member {
    fn step(
        &mut self,
        envoy: &mut ExtensionConfig<'_>,
        stats: &mut Stats,
        step: impl FnOnce(&mut Worker, &mut EndpointPicker, &mut Host<'_, '_>),
    ) {
        let Self { instance, worker, pace, call, sidecar } = self;
        let mut answered = None;
        let mut host = Host { envoy, stats, pace, call, sidecar: sidecar.as_deref(), answered: &mut answered };
        instance.with_keeper(|picker| step(worker, picker, &mut host));
        if let Some(answer) = host.answered.take() {
            let response = answer.as_ref().map(|Answer { status, body, is_watched }| SidecarResponse {
                status: status.as_bytes(),
                body,
                is_watched: *is_watched,
            });
            worker.handle_response(&mut host, response);
        }
    }

    fn finish(&mut self, envoy: &mut ExtensionConfig<'_>, stats: &mut Stats) {
        self.step(envoy, stats, |worker, picker, host| worker.finish(picker, host));
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { period_millis: IDLE_MILLIS, due_at: Timestamp::default() }
    }
}

fn count_panics(ledger: &mut Ledger) {
    for (hook, count) in panics::take() {
        ledger.add(Stat::PanicsTotal, &[hook.as_str()], count);
    }
}

/// Envoy, as the core's machines between requests want it, for the length of one hook.
struct Host<'a, 'hook> {
    envoy: &'a mut ExtensionConfig<'hook>,
    stats: &'a mut Stats,
    pace: &'a mut Pace,
    call: &'a mut Option<Callout>,
    sidecar: Option<&'a Sidecar>,
    /// What the sidecar in this process answered to a call within this turn.
    answered: &'a mut Option<Option<Answer>>,
}

impl SharedData for Host<'_, '_> {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        process().shared().get(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        process().shared().set(key, value, cas)
    }
}

impl HostStats for Host<'_, '_> {
    fn define_stat(&mut self, kind: SinkKind, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let number = self.stats.series(family, suffix, labels)?;
        if kind == SinkKind::Counter {
            // A bucket that is empty is part of its histogram: Envoy makes a series when it is first changed.
            self.stats.change(self.envoy, kind, number, 0);
        }
        Some(number)
    }

    fn add_to_stat(&mut self, id: u32, delta: u64) {
        self.stats.change(self.envoy, SinkKind::Counter, id, delta);
    }

    fn set_stat(&mut self, id: u32, value: u64) {
        self.stats.change(self.envoy, SinkKind::Gauge, id, value);
    }

    fn now(&mut self) -> Timestamp {
        clock::now()
    }
}

impl Binding for Host<'_, '_> {
    fn set_tick_period(&mut self, millis: u32) -> bool {
        self.pace.period_millis = millis;
        true
    }

    /// There is no virtual machine: all memory is Envoy's own.
    fn memory_bytes(&mut self) -> u64 {
        0
    }

    fn call(&mut self, request: &SidecarRequest) -> Result<(), String> {
        if let Some(sidecar) = self.sidecar {
            *self.answered = Some(sidecar.fetch(request));
            return Ok(());
        }
        let headers: Vec<_> = request.headers().collect();
        let call = self
            .envoy
            .call(&request.cluster, &headers, &request.body, request.timeout_ms)
            .map_err(|refused| format!("{refused:?}"))?;
        *self.call = Some(call);
        Ok(())
    }

    fn log(&mut self, news: &News) {
        match news {
            News::Recovered => log::info!("the sidecar answers again"),
            News::Failed(reason) => log::warn!("no snapshot: {reason}"),
        }
    }
}
