//! What comes to the filter over the wire and through shared data: snapshots, and the posts and boards of other workers.
//!
//! Input: a byte that chooses the message, then its bytes.

use endpoint_picker::board::{Board, Post, Roster, Version};
use endpoint_picker::{EndpointPicker, Plugin, Timestamp};
use prost::Message;
use snapshot::{MAX_ENDPOINTS, Snapshot};

use crate::stats::{Stats, send_requests};

/// Decodes a message and does with it what the filter does.
pub fn check(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    match kind % 4 {
        0 | 1 => check_snapshot(bytes),
        2 => check_board(bytes),
        _ => {
            check_message::<Post>(bytes);
            check_message::<Roster>(bytes);
            check_message::<Version>(bytes);
        }
    }
}

fn check_snapshot(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::decode(bytes) else { return };
    assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    for pool in &snapshot.pools {
        assert!(!pool.name.is_empty() && pool.endpoints.len() <= MAX_ENDPOINTS);
        let usages = pool.endpoints.iter().filter_map(|endpoint| endpoint.kv_cache_usage);
        assert!(usages.into_iter().all(|usage| (0.0..=1.0).contains(&usage)));
        let config = serde_json::json!({"pool": pool.name, "metrics": {"model": true}}).to_string();
        let Ok(Plugin::Filter(config)) = Plugin::parse(config.as_bytes()) else { panic!("{config}") };
        let mut picker = EndpointPicker::new(config, snapshot.epoch);
        picker.install(&snapshot);
        assert_eq!(picker.pool().endpoints().len(), pool.endpoints.len());
        send_requests(&mut picker, &mut Stats::default(), 3, Timestamp::from_micros(snapshot.generation));
        picker.install(&snapshot);
        assert_eq!(picker.pool().endpoints().len(), pool.endpoints.len(), "installing again changes nothing");
        picker.install(&Snapshot::default());
        assert_eq!(picker.pool().endpoints().len(), 0, "nothing is in flight");
    }
}

fn check_board(bytes: &[u8]) {
    check_message::<Board>(bytes);
    let Ok(board) = Board::decode(bytes) else { return };
    let own = board.posts.first().map_or(0, |post| post.worker);
    let counted: u64 = board.running(|_| true).values().sum();
    let posted = board.posts.iter().flat_map(|post| &post.models).map(|model| u64::from(model.count));
    assert_eq!(counted, posted.sum::<u64>());
    let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!("the defaults") };
    let mut picker = EndpointPicker::new(config, own);
    let addresses = board.others_in_flight(own).into_keys().take(8);
    let endpoints = addresses.map(snapshot::Endpoint::unknown).collect();
    let pools = vec![snapshot::Pool { name: "default".into(), endpoints }];
    picker.install(&Snapshot { pools, ..Snapshot::default() });
    picker.take_board(&board);
    send_requests(&mut picker, &mut Stats::default(), 3, Timestamp::from_micros(0));
}

fn check_message<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        assert_eq!(M::decode(message.encode_to_vec().as_slice()).as_ref(), Ok(&message));
    }
}
