//! What the kernel says of links, byte by byte.

use proptest::prelude::*;

use crate::apply::announcer::links::{LinkNews, read};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, family: u8, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![family, 0, 1, 0];
    payload.extend(7_u32.to_ne_bytes());
    payload.extend(flags.to_ne_bytes());
    payload.extend([0; 4]);
    payload.extend(attributes.concat());
    let mut bytes = u32::try_from(16 + payload.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(payload);
    bytes
}

#[test]
fn a_bond_that_uses_another_port_is_news_for_the_neighbours() {
    let name = attribute(3, b"bond0\0");
    let mac = attribute(1, &[2, 0, 0, 0, 0, 1]);
    let carriers = attribute(47, &3_u32.to_ne_bytes());
    let event = |number: u32| attribute(44, &number.to_ne_bytes());
    let up = 1 | 1 << 16;
    let news = |other_way, up| LinkNews {
        index: 7,
        name: "bond0".to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        up,
        carriers: Some(3),
        other_way,
    };
    let of = |flags, more: &[Vec<u8>]| {
        let attributes = [&[name.clone(), mac.clone(), carriers.clone()], more].concat();
        read(&message(16, 0, flags, &attributes))
    };
    assert_eq!(of(up, &[]), Some(vec![news(false, true)]));
    assert_eq!(of(1, &[event(2)]), Some(vec![news(false, false)]));
    for number in [3, 4, 5] {
        assert_eq!(of(up, &[event(number)]), Some(vec![news(true, true)]));
    }
    let port_of_a_bridge = message(16, 7, up, std::slice::from_ref(&name));
    let gone = message(17, 0, 0, &[name]);
    assert_eq!(read(&[port_of_a_bridge, gone].concat()), Some(vec![]));
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = read(&message(16, 0, 0, &[bytes]));
    }
}
