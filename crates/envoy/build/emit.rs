//! Writes the schema as the table that `src/table/layout.rs` describes.

use crate::{
    descriptor::{Field, Message, Schema},
    layout::{
        ENUM_SIZE, FIELD_DEPRECATED, FIELD_MAP, FIELD_OPTIONAL, FIELD_PACKED, FIELD_REPEATED, FIELD_SENSITIVE,
        FIELD_SIZE, HEADER, MESSAGE_LISTED, MESSAGE_MAP_ENTRY, MESSAGE_SIZE, NO_ONEOF, NO_TYPE, ONEOF_SIZE, VALUE_SIZE,
    },
};
use std::collections::HashMap;

const TYPE_MESSAGE: u8 = 11;
const TYPE_ENUM: u8 = 14;

/// The table's bytes.
pub(crate) fn table(schema: &Schema) -> Result<Vec<u8>, String> {
    let mut texts = Texts { bytes: vec![0, 0], known: HashMap::new() };
    let (mut messages, mut fields, mut oneofs) = (Vec::new(), Vec::new(), Vec::new());
    for message in &schema.messages {
        let first_field = fields.len() / FIELD_SIZE;
        let first_oneof = oneofs.len() / ONEOF_SIZE;
        for field in &message.fields {
            emit_field(schema, message, field, &mut fields, &mut texts)?;
        }
        for oneof in message.oneofs.iter().filter(|o| !o.synthetic) {
            put(&mut oneofs, texts.add(oneof.name.as_bytes())?);
            put(&mut oneofs, u32::from(oneof.required));
        }
        put(&mut messages, texts.add(message.name.as_bytes())?);
        put(&mut messages, first_field as u32);
        put(&mut messages, first_oneof as u32);
        messages.extend_from_slice(&(message.fields.len() as u16).to_le_bytes());
        messages.push((oneofs.len() / ONEOF_SIZE - first_oneof) as u8);
        messages.push(
            if message.map_entry { MESSAGE_MAP_ENTRY } else { 0 } | if message.listed { MESSAGE_LISTED } else { 0 },
        );
    }
    let (mut enums, mut values) = (Vec::new(), Vec::new());
    for enumeration in &schema.enums {
        put(&mut enums, texts.add(enumeration.name.as_bytes())?);
        put(&mut enums, (values.len() / VALUE_SIZE) as u32);
        put(&mut enums, enumeration.values.len() as u32);
        for value in &enumeration.values {
            put(&mut values, texts.add(value.name.as_bytes())?);
            put(&mut values, value.number as u32);
            put(&mut values, texts.add(value.reason.as_bytes())?);
            put(&mut values, value.flags);
        }
    }
    let sections = [
        (messages, MESSAGE_SIZE),
        (fields, FIELD_SIZE),
        (oneofs, ONEOF_SIZE),
        (enums, ENUM_SIZE),
        (values, VALUE_SIZE),
        (texts.bytes, 1),
    ];
    let mut out = Vec::new();
    let mut offset = HEADER * 4;
    for (section, size) in &sections {
        put(&mut out, offset as u32);
        put(&mut out, (section.len() / size) as u32);
        offset += section.len();
    }
    for (section, _) in &sections {
        out.extend_from_slice(section);
    }
    Ok(out)
}

fn emit_field(
    schema: &Schema,
    message: &Message,
    field: &Field,
    out: &mut Vec<u8>,
    texts: &mut Texts,
) -> Result<(), String> {
    let unknown = || format!("{}.{}: unknown type {}", message.name, field.name, field.type_name);
    let (type_ref, is_map) = match field.kind {
        TYPE_MESSAGE => {
            let index = schema.message(&field.type_name).ok_or_else(unknown)?;
            (index as u16, field.repeated && schema.messages[index].map_entry)
        }
        TYPE_ENUM => (schema.enumeration(&field.type_name).ok_or_else(unknown)? as u16, false),
        _ => (NO_TYPE, false),
    };
    let oneof = match field.oneof {
        // Synthetic oneofs come after the real ones, so the numbers of the real ones stay.
        Some(index) if !field.optional => index as u8,
        _ => NO_ONEOF,
    };
    let flags = [
        (field.repeated && !is_map, FIELD_REPEATED),
        (is_map, FIELD_MAP),
        (field.deprecated, FIELD_DEPRECATED),
        (field.sensitive, FIELD_SENSITIVE),
        (field.optional, FIELD_OPTIONAL),
        (field.packed, FIELD_PACKED),
    ];
    put(out, texts.add(field.name.as_bytes())?);
    put(out, field.number);
    put(out, texts.add(&field.rules)?);
    put(out, texts.add(field.reason.as_bytes())?);
    out.extend_from_slice(&type_ref.to_le_bytes());
    out.push(field.kind);
    out.push(flags.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum());
    out.push(oneof);
    out.push(field.support);
    out.extend_from_slice(&[0, 0]);
    Ok(())
}

fn put(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// The last section: each text once.
struct Texts {
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Texts {
    fn add(&mut self, text: &[u8]) -> Result<u32, String> {
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(&offset) = self.known.get(text) {
            return Ok(offset);
        }
        let length = u16::try_from(text.len()).map_err(|_| "a text of the table is too long".to_owned())?;
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(text);
        self.known.insert(text.to_vec(), offset);
        Ok(offset)
    }
}
