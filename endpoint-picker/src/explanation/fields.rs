//! Envoy's form of a set of fields.

use alloc::vec::Vec;

use prost::encoding::{encode_varint, encoded_len_varint};

/// The fields of a serialised `google.protobuf.Struct`, written as they come: of a request that is logged nothing is made twice.
#[derive(Debug, Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// The structs of a list, one after the other.
    list: Vec<u8>,
    value: Vec<u8>,
}

impl Fields {
    /// The serialised struct.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A text, where there is one.
    pub(super) fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.value.clear();
            delimited(&mut self.value, TEXT, text.as_bytes());
            self.close(name);
        }
    }

    /// A number, where there is one.
    pub(super) fn number(&mut self, name: &str, number: Option<f64>) {
        if let Some(number) = number {
            self.value.clear();
            self.value.push(NUMBER);
            self.value.extend_from_slice(&number.to_le_bytes());
            self.close(name);
        }
    }

    /// A list of structs, where it has any.
    pub(super) fn list(&mut self, name: &str, items: impl Iterator<Item = impl FnOnce(&mut Self)>) {
        self.list.clear();
        let mut item_fields = Self::default();
        for item in items {
            item_fields.bytes.clear();
            item(&mut item_fields);
            self.value.clear();
            delimited(&mut self.value, STRUCT, &item_fields.bytes);
            delimited(&mut self.list, FIRST_FIELD, &self.value);
        }
        if !self.list.is_empty() {
            self.value.clear();
            delimited(&mut self.value, LIST, &self.list);
            self.close(name);
        }
    }

    /// Adds the value under its name: an entry of the map `fields`.
    fn close(&mut self, name: &str) {
        let name_size = 1 + encoded_len_varint(name.len() as u64) + name.len();
        let value_size = 1 + encoded_len_varint(self.value.len() as u64) + self.value.len();
        self.bytes.push(FIRST_FIELD);
        encode_varint((name_size + value_size) as u64, &mut self.bytes);
        delimited(&mut self.bytes, FIRST_FIELD, name.as_bytes());
        delimited(&mut self.bytes, SECOND_FIELD, &self.value);
    }
}

/// Keys of fields: their numbers and wire types, in a message with one and two fields, and in `google.protobuf.Value`.
const FIRST_FIELD: u8 = 1 << 3 | 2;
const SECOND_FIELD: u8 = 2 << 3 | 2;
const NUMBER: u8 = 2 << 3 | 1;
const TEXT: u8 = 3 << 3 | 2;
const STRUCT: u8 = 5 << 3 | 2;
const LIST: u8 = 6 << 3 | 2;

fn delimited(bytes: &mut Vec<u8>, key: u8, content: &[u8]) {
    bytes.push(key);
    encode_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}
