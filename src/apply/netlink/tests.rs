//! Messages as a kernel sends them, whole and broken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};
use proptest::prelude::*;

use super::message::{Kind, MalformedMessage, Message, RequestError, append};

fn header(length: u32, message_type: u16, flags: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(message_type.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn acknowledgement(code: i32, flags: u16, echoed: &[u8], attributes: &[u8]) -> Vec<u8> {
    let length = 36 + echoed.len() + attributes.len();
    let mut bytes = header(length.try_into().unwrap(), 2, flags, 7);
    bytes.extend(code.to_ne_bytes());
    bytes.extend(header((16 + echoed.len()).try_into().unwrap(), 24, 5, 7));
    bytes.extend(echoed);
    bytes.extend(attributes);
    bytes
}

fn attributes() -> Vec<u8> {
    let mut bytes = vec![13, 0, 1, 0];
    bytes.extend(b"no route\0\0\0\0");
    bytes.extend([8, 0, 2, 0]);
    bytes.extend(36_u32.to_ne_bytes());
    bytes
}

fn kind_of(bytes: &[u8]) -> Kind {
    let (message, rest) = Message::split(bytes).unwrap();
    assert!(rest.is_empty());
    message.kind().unwrap()
}

#[test]
fn a_success_is_told_from_a_refusal() {
    assert_eq!(
        kind_of(&acknowledgement(0, NLM_F_CAPPED, &[], &[])),
        Kind::Acknowledgement(Ok(()))
    );
    assert_eq!(
        kind_of(&acknowledgement(-17, NLM_F_CAPPED, &[], &[])),
        Kind::Acknowledgement(Err(RequestError::from_errno(17)))
    );
}

#[test]
fn the_extended_acknowledgement_is_read_with_and_without_the_echoed_request() {
    let expected = RequestError {
        errno: 101,
        message: Some("no route".into()),
        offset: Some(36),
    };
    let capped = acknowledgement(-101, NLM_F_CAPPED | NLM_F_ACK_TLVS, &[], &attributes());
    assert_eq!(
        kind_of(&capped),
        Kind::Acknowledgement(Err(expected.clone()))
    );
    let whole = acknowledgement(-101, NLM_F_ACK_TLVS, &[9; 20], &attributes());
    assert_eq!(kind_of(&whole), Kind::Acknowledgement(Err(expected)));
}

#[test]
fn attributes_cut_short_leave_the_errno() {
    let bytes = acknowledgement(-22, NLM_F_CAPPED | NLM_F_ACK_TLVS, &[], &[200, 0, 1, 0]);
    assert_eq!(
        kind_of(&bytes),
        Kind::Acknowledgement(Err(RequestError::from_errno(22)))
    );
}

#[test]
fn the_end_of_a_dump_can_be_a_refusal() {
    let mut bytes = header(20, 3, 0, 1);
    bytes.extend((-105_i32).to_ne_bytes());
    assert_eq!(
        kind_of(&bytes),
        Kind::Done(Err(RequestError::from_errno(105)))
    );
    assert_eq!(kind_of(&header(16, 3, 0, 1)), Kind::Done(Ok(())));
}

#[test]
fn short_and_lying_lengths_are_errors() {
    let (claimed, available) = (16, 3);
    assert_eq!(
        Message::split(&[1, 2, 3]),
        Err(MalformedMessage::Length { claimed, available })
    );
    for claimed in [0, 15, 17, u32::MAX] {
        let bytes = header(claimed, 24, 0, 1);
        let claimed = claimed as usize;
        assert_eq!(
            Message::split(&bytes),
            Err(MalformedMessage::Length {
                claimed,
                available: 16
            })
        );
    }
    let bytes = header(16, 2, 0, 1);
    assert!(Message::split(&bytes).unwrap().0.kind().is_err());
}

#[test]
fn two_messages_in_a_datagram_come_apart() {
    let mut bytes = header(17, 24, 0, 1);
    bytes.extend([42, 0, 0, 0]);
    bytes.extend(header(16, 25, 0, 2));
    let (first, rest) = Message::split(&bytes).unwrap();
    let (second, rest) = Message::split(rest).unwrap_or_else(|_| panic!("{rest:?}"));
    assert_eq!((first.payload, first.message_type), (&[42][..], 24));
    assert_eq!((second.sequence, rest.len()), (2, 0));
}

#[test]
fn an_appended_request_has_length_flags_sequence_and_padding() {
    let mut request = header(0, 24, 0x400, 0);
    request.extend([1, 2, 3]);
    let mut buffer = Vec::new();
    append(&mut buffer, &request, 9, 5).unwrap();
    let mut expected = header(19, 24, 0x405, 9);
    expected.extend([1, 2, 3, 0]);
    assert_eq!(buffer, expected);
    assert_eq!(append(&mut buffer, &[0; 15], 10, 5), None);
    assert_eq!(buffer, expected);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((message, _)) = Message::split(&bytes) {
            let _ = message.kind();
        }
    }

    #[test]
    fn no_acknowledgement_makes_the_reader_panic(
        flags in any::<u16>(), kind in 0_u16..5, body in prop::collection::vec(any::<u8>(), 0..120)
    ) {
        let mut bytes = header((16 + body.len()).try_into().unwrap(), kind, flags, 1);
        bytes.extend(body);
        let (message, _) = Message::split(&bytes).unwrap();
        let _ = message.kind();
    }
}
