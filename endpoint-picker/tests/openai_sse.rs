//! The event reader against a plain reading of the standard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

#[path = "plain/event_stream.rs"]
mod event_stream;

use endpoint_picker::openai::sse::{Item, MAX_NAME_BYTES, SseReader};
use event_stream::{Events, events, read_events};
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        6 => Just(b"\n".to_vec()),
        3 => Just(b"\r\n".to_vec()),
        2 => Just(b"\r".to_vec()),
        6 => Just(b"data: ".to_vec()),
        2 => Just(b"data:".to_vec()),
        2 => Just(b"data".to_vec()),
        3 => Just(b"event: ".to_vec()),
        1 => Just(b"event".to_vec()),
        1 => Just(b":".to_vec()),
        1 => Just(b": keep-alive".to_vec()),
        1 => Just(b"id: 7".to_vec()),
        1 => Just(b"retry: 10".to_vec()),
        1 => Just(b"datas: x".to_vec()),
        1 => Just(b"\xEF\xBB\xBF".to_vec()),
        1 => Just(b"\xEF\xBB".to_vec()),
        1 => Just("漢🦀".as_bytes().to_vec()),
        3 => Just(b"{\"a\":1}".to_vec()),
        2 => (1usize..700).prop_map(|length| vec![b'x'; length]),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_are_read_as_the_standard_reads_them(stream in stream(), places in proptest::collection::vec(any::<usize>(), 0..10)) {
        let expected = events(&stream).0;
        let mut places: Vec<_> = places.iter().map(|place| place % (stream.len() + 1)).chain([0, stream.len()]).collect();
        places.sort_unstable();
        // The smallest buffer makes parts of what is longer than 256 bytes.
        for buffer_bytes in [0, 400, 1 << 20] {
            let whole = read_events(buffer_bytes, [stream.as_slice()]);
            prop_assert_eq!(&whole.0, &expected);
            let cut = read_events(buffer_bytes, places.windows(2).map(|pair| &stream[pair[0]..pair[1]]));
            prop_assert_eq!(&cut.0, &expected);
            let bytewise = read_events(buffer_bytes, stream.chunks(1));
            prop_assert_eq!(&bytewise.0, &expected);
        }
    }
}

#[test]
fn every_cut_gives_the_same_events() {
    let stream = "\u{feff}: hello\r\n\r\nevent: a\r\ndata: {\"t\":\"漢🦀\"}\r\n\r\ndata: x\ndata: y\n\n\rdata\r\revent: b\n\nid: 1\ndata:z\n\n";
    let expected: Events = [("a", "{\"t\":\"漢🦀\"}"), ("", "x\ny"), ("", ""), ("", "z")]
        .map(|(name, data)| (name.as_bytes().to_vec(), data.as_bytes().to_vec()))
        .to_vec();
    assert_eq!(events(stream.as_bytes()).0, expected);
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let bytes = stream.as_bytes();
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(read_events(1 << 16, pieces), (expected.clone(), false), "cut at {first} and {second}");
        }
    }
}

#[test]
fn an_event_that_the_end_cuts_is_not_handed_out_but_noticed() {
    for (stream, cut) in [
        ("data: x", true),
        ("data: x\n", true),
        ("data: x\n\n", false),
        ("data: x\n\nevent: y", true),
        ("data: x\n\nevent: y\n", true),
        ("data: x\n\n: comment", false),
        ("data: x\n\n: comment\n", false),
        ("", false),
    ] {
        let events = usize::from(stream.contains("\n\n"));
        let got = read_events(1 << 16, [stream.as_bytes()]);
        assert_eq!((got.0.len(), got.1), (events, cut), "{stream:?}");
        assert_eq!(read_events(1 << 16, stream.as_bytes().chunks(1)), got, "{stream:?}");
    }
}

#[test]
fn a_whole_event_is_handed_out_without_a_copy() {
    let piece = b"data: {\"a\":1}\n\n".as_slice();
    let mut reader = SseReader::default();
    reader.feed(piece, |item| {
        let Item::Event { data, .. } = item else { panic!() };
        assert!(piece.as_ptr_range().contains(&data.as_ptr()));
    });
}

#[test]
fn a_big_event_comes_in_parts_of_the_pieces_size() {
    let mut reader = SseReader::new(1000);
    let (mut bytes, mut longest, mut ended) = (0, 0, false);
    let mut take = |item: Item<'_>| match item {
        Item::Event { .. } => panic!("too big to be kept"),
        Item::Part(part) => {
            bytes += part.len();
            longest = longest.max(part.len());
        }
        Item::End { name } => {
            assert_eq!(name, b"big");
            ended = true;
        }
    };
    reader.feed(b"event: big\ndata: ", &mut take);
    for _ in 0..10_000 {
        reader.feed(&[b'x'; 300], &mut take);
    }
    reader.feed(b"\n\n", &mut take);
    assert!(ended && bytes == 3_000_000 && longest <= 1000, "{bytes} {longest}");
}

#[test]
fn endless_lines_of_no_interest_are_not_kept() {
    for start in [": ", "id: ", "x", "event: "] {
        let mut reader = SseReader::new(1000);
        reader.feed(start.as_bytes(), |_| panic!("no event"));
        for _ in 0..1000 {
            reader.feed(&[b'y'; 100], |_| panic!("no event"));
        }
        let mut names = Vec::new();
        reader.feed(b"\ndata: z\n\n", |item| {
            let Item::Event { name, data: b"z" } = item else { panic!() };
            names.push(name.len());
        });
        let expected = if start == "event: " { MAX_NAME_BYTES } else { 0 };
        assert_eq!(names, [expected], "{start}");
    }
}
