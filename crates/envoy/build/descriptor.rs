//! Reads a `FileDescriptorSet` from its bytes, with the options that a typed decoder would drop: `validate.rules`,
//! `validate.required` and `udpa.annotations.sensitive`.

use std::collections::BTreeMap;

/// `validate.rules` on a field, and `validate.required` on a oneof: both are extension 1071.
const VALIDATE: u32 = 1071;
/// `udpa.annotations.sensitive` on a field.
const SENSITIVE: u32 = 76_569_463;

/// All messages and enums, by full name without the leading dot.
#[derive(Default)]
pub(crate) struct Schema {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
    message_index: BTreeMap<String, usize>,
    enum_index: BTreeMap<String, usize>,
}

pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<Oneof>,
    pub(crate) map_entry: bool,
    pub(crate) listed: bool,
}

pub(crate) struct Oneof {
    pub(crate) name: String,
    pub(crate) required: bool,
    /// Made by the compiler for `optional`; not a oneof for people.
    pub(crate) synthetic: bool,
}

#[derive(Default)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) kind: u8,
    pub(crate) type_name: String,
    pub(crate) repeated: bool,
    pub(crate) packed: bool,
    pub(crate) optional: bool,
    pub(crate) deprecated: bool,
    pub(crate) sensitive: bool,
    pub(crate) oneof: Option<usize>,
    pub(crate) rules: Vec<u8>,
    pub(crate) support: u8,
    pub(crate) reason: String,
    json_name: String,
}

pub(crate) struct Enum {
    pub(crate) name: String,
    pub(crate) values: Vec<EnumValue>,
}

#[derive(Default)]
pub(crate) struct EnumValue {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) flags: u32,
    pub(crate) reason: String,
}

impl Schema {
    /// Puts everything in the order of names; to be called once all is there and before look-ups by name.
    pub(crate) fn sort(&mut self) {
        self.messages.sort_by(|a, b| a.name.cmp(&b.name));
        self.enums.sort_by(|a, b| a.name.cmp(&b.name));
        self.message_index = self.messages.iter().enumerate().map(|(i, m)| (m.name.clone(), i)).collect();
        self.enum_index = self.enums.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
    }

    pub(crate) fn message(&self, name: &str) -> Option<usize> {
        self.message_index.get(name).copied()
    }

    pub(crate) fn enumeration(&self, name: &str) -> Option<usize> {
        self.enum_index.get(name).copied()
    }
}

/// Files that describe the description itself; no configuration holds their messages.
fn is_meta(file: &str) -> bool {
    file == "google/protobuf/descriptor.proto"
        || file.starts_with("validate/")
        || file.starts_with("google/api/annotations")
        || file.starts_with("google/api/http.proto")
        || file.contains("/annotations/")
}

/// Reads the set.
pub(crate) fn read(set: &[u8]) -> Result<Schema, String> {
    let mut schema = Schema::default();
    for (number, value) in fields(set)? {
        if number == 1 {
            read_file(value.bytes()?, &mut schema)?;
        }
    }
    if schema.messages.is_empty() { Err("the descriptor set has no messages".to_owned()) } else { Ok(schema) }
}

fn read_file(file: &[u8], schema: &mut Schema) -> Result<(), String> {
    let (mut name, mut package) = (String::new(), String::new());
    let parts = fields(file)?;
    for (number, value) in &parts {
        match number {
            1 => name = value.text()?,
            2 => package = value.text()?,
            _ => {}
        }
    }
    if is_meta(&name) {
        return Ok(());
    }
    for (number, value) in &parts {
        match number {
            4 => read_message(value.bytes()?, &package, schema)?,
            5 => read_enum(value.bytes()?, &package, schema)?,
            _ => {}
        }
    }
    Ok(())
}

fn read_message(bytes: &[u8], scope: &str, schema: &mut Schema) -> Result<(), String> {
    let parts = fields(bytes)?;
    let own = parts.iter().find(|(n, _)| *n == 1).map(|(_, v)| v.text()).transpose()?.unwrap_or_default();
    let mut message = Message {
        name: if scope.is_empty() { own } else { format!("{scope}.{own}") },
        fields: Vec::new(),
        oneofs: Vec::new(),
        map_entry: false,
        listed: false,
    };
    for (number, value) in &parts {
        match number {
            2 => message.fields.push(read_field(value.bytes()?)?),
            3 => read_message(value.bytes()?, &message.name, schema)?,
            4 => read_enum(value.bytes()?, &message.name, schema)?,
            7 => message.map_entry = fields(value.bytes()?)?.iter().any(|(n, v)| *n == 7 && v.is_true()),
            8 => message.oneofs.push(read_oneof(value.bytes()?)?),
            _ => {}
        }
    }
    for field in &message.fields {
        if field.json_name != json_name(&field.name) {
            return Err(format!("{}.{}: the JSON name {} is not derived", message.name, field.name, field.json_name));
        }
        if let (true, Some(oneof)) = (field.optional, field.oneof.and_then(|i| message.oneofs.get_mut(i))) {
            oneof.synthetic = true;
        }
    }
    schema.messages.push(message);
    Ok(())
}

fn read_oneof(bytes: &[u8]) -> Result<Oneof, String> {
    let mut oneof = Oneof { name: String::new(), required: false, synthetic: false };
    for (number, value) in fields(bytes)? {
        match number {
            1 => oneof.name = value.text()?,
            2 => oneof.required = fields(value.bytes()?)?.iter().any(|(n, v)| *n == VALIDATE && v.is_true()),
            _ => {}
        }
    }
    Ok(oneof)
}

fn read_field(bytes: &[u8]) -> Result<Field, String> {
    let mut field = Field::default();
    let mut packed = None;
    for (number, value) in fields(bytes)? {
        match number {
            1 => field.name = value.text()?,
            3 => field.number = value.number()? as u32,
            4 => field.repeated = value.number()? == 3,
            5 => field.kind = value.number()? as u8,
            6 => field.type_name = value.text()?.trim_start_matches('.').to_owned(),
            8 => {
                for (option, value) in fields(value.bytes()?)? {
                    match option {
                        2 => packed = Some(value.is_true()),
                        3 => field.deprecated = value.is_true(),
                        VALIDATE => field.rules.extend_from_slice(value.bytes()?),
                        SENSITIVE => field.sensitive = value.is_true(),
                        _ => {}
                    }
                }
            }
            9 => field.oneof = Some(value.number()? as usize),
            10 => field.json_name = value.text()?,
            17 => field.optional = value.is_true(),
            _ => {}
        }
    }
    if field.json_name.is_empty() {
        field.json_name = json_name(&field.name);
    }
    // proto3 packs repeated numbers unless told otherwise.
    field.packed = field.repeated && !matches!(field.kind, 9 | 11 | 12) && packed.unwrap_or(true);
    Ok(field)
}

fn read_enum(bytes: &[u8], scope: &str, schema: &mut Schema) -> Result<(), String> {
    let mut own = String::new();
    let mut values = Vec::new();
    for (number, value) in fields(bytes)? {
        match number {
            1 => own = value.text()?,
            2 => {
                let mut entry = EnumValue::default();
                for (number, value) in fields(value.bytes()?)? {
                    match number {
                        1 => entry.name = value.text()?,
                        2 => entry.number = value.number()? as i32,
                        3 if fields(value.bytes()?)?.iter().any(|(n, v)| *n == 1 && v.is_true()) => {
                            entry.flags |= crate::layout::VALUE_DEPRECATED;
                        }
                        _ => {}
                    }
                }
                values.push(entry);
            }
            _ => {}
        }
    }
    schema.enums.push(Enum { name: if scope.is_empty() { own } else { format!("{scope}.{own}") }, values });
    Ok(())
}

/// `lowerCamelCase` as the protobuf compiler derives it.
pub(crate) fn json_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// The set without `source_code_info`, a fifth of the size. Done on the wire, so that no option is lost.
pub(crate) fn without_source_info(set: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (_, file) in fields(set)? {
        let mut kept = Vec::new();
        let file = file.bytes()?;
        let mut at = 0;
        while at < file.len() {
            let (number, _, end) = field(file, at)?;
            if number != 9 {
                kept.extend_from_slice(&file[at..end]);
            }
            at = end;
        }
        out.push(10);
        put_varint(&mut out, kept.len() as u64);
        out.extend_from_slice(&kept);
    }
    Ok(out)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A value on the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn number(&self) -> Result<u64, String> {
        if let Self::Number(n) = self { Ok(*n) } else { Err("a number was expected in the descriptor set".to_owned()) }
    }

    fn is_true(&self) -> bool {
        matches!(self, Self::Number(n) if *n != 0)
    }

    fn bytes(&self) -> Result<&'a [u8], String> {
        if let Self::Bytes(b) = self { Ok(b) } else { Err("bytes were expected in the descriptor set".to_owned()) }
    }

    fn text(&self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "text was expected in the descriptor set".to_owned())
    }
}

fn fields(bytes: &[u8]) -> Result<Vec<(u32, Raw<'_>)>, String> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (number, value, end) = field(bytes, at)?;
        out.push((number, value));
        at = end;
    }
    Ok(out)
}

fn field(bytes: &[u8], at: usize) -> Result<(u32, Raw<'_>, usize), String> {
    let cut = || "the descriptor set is cut off".to_owned();
    let (tag, at) = varint(bytes, at)?;
    let (value, end) = match tag & 7 {
        0 => {
            let (value, end) = varint(bytes, at)?;
            (Raw::Number(value), end)
        }
        1 => (Raw::Bytes(bytes.get(at..at + 8).ok_or_else(cut)?), at + 8),
        5 => (Raw::Bytes(bytes.get(at..at + 4).ok_or_else(cut)?), at + 4),
        2 => {
            let (length, at) = varint(bytes, at)?;
            let end = at + length as usize;
            (Raw::Bytes(bytes.get(at..end).ok_or_else(cut)?), end)
        }
        other => return Err(format!("wire type {other} in the descriptor set")),
    };
    Ok(((tag >> 3) as u32, value, end))
}

fn varint(bytes: &[u8], mut at: usize) -> Result<(u64, usize), String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at).ok_or_else(|| "the descriptor set is cut off".to_owned())?;
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value, at));
        }
    }
    Err("a number in the descriptor set is too long".to_owned())
}
