//! Messages that real configurations hold and the descriptor set lacks, described by `src/gaps.txt`.

use crate::descriptor::{Enum, EnumValue, Field, Message, Oneof, Schema};

/// Adds the messages of the text:
///
/// ```text
/// message xds.type.v3.TypedStruct
///   string type_url = 1
///   repeated google.protobuf.Struct value = 2     # "repeated" or "oneof NAME" may stand before
///   map tags = 3                                  # of strings by strings
/// enum a.b.Kind ONE=0 TWO=1                       # before the messages that have fields of it
/// ```
pub(crate) fn add(schema: &mut Schema, text: &str) -> Result<(), String> {
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["message", name] = words[..] {
            if schema.messages.iter().any(|m| m.name == name) {
                return Err(format!("src/gaps.txt:{}: {name} is in the descriptor set; remove it here", index + 1));
            }
            schema.messages.push(message(name.to_owned()));
            continue;
        }
        let unreadable = || format!("src/gaps.txt:{}: cannot read this line", index + 1);
        if let ["enum", name, values @ ..] = &words[..] {
            let values = values.iter().map(|value| {
                let (name, number) = value.split_once('=')?;
                Some(EnumValue { name: name.to_owned(), number: number.parse().ok()?, ..EnumValue::default() })
            });
            let values = values.collect::<Option<_>>().ok_or_else(unreadable)?;
            schema.enums.push(Enum { name: (*name).to_owned(), values });
            continue;
        }
        if let ["map", field, "=", number] = words[..] {
            let owner = schema.messages.len().checked_sub(1).ok_or_else(unreadable)?;
            let entry = format!("{}.{field}Entry", schema.messages[owner].name);
            let number = number.parse().map_err(|_| unreadable())?;
            let mut map = named(field, number, 11);
            (map.type_name, map.repeated) = (entry.clone(), true);
            schema.messages[owner].fields.push(map);
            let fields = vec![named("key", 1, 9), named("value", 2, 9)];
            schema.messages.insert(owner, Message { fields, map_entry: true, ..message(entry) });
            continue;
        }
        let enums: Vec<_> = schema.enums.iter().map(|found| found.name.clone()).collect();
        let message = schema.messages.last_mut().ok_or_else(|| format!("src/gaps.txt:{}: no message", index + 1))?;
        add_field(message, &words, &enums).ok_or_else(unreadable)?;
    }
    Ok(())
}

fn named(name: &str, number: u32, kind: u8) -> Field {
    let mut field = Field::default();
    (field.name, field.number, field.kind) = (name.to_owned(), number, kind);
    field
}

fn message(name: String) -> Message {
    Message { name, fields: Vec::new(), oneofs: Vec::new(), map_entry: false, listed: false }
}

fn add_field(message: &mut Message, words: &[&str], enums: &[String]) -> Option<()> {
    let mut field = Field::default();
    let mut words = words;
    match words {
        ["repeated", rest @ ..] => {
            field.repeated = true;
            words = rest;
        }
        ["oneof", name, rest @ ..] => {
            let index = message.oneofs.iter().position(|o| o.name == *name).unwrap_or_else(|| {
                message.oneofs.push(Oneof { name: (*name).to_owned(), required: false, synthetic: false });
                message.oneofs.len() - 1
            });
            field.oneof = Some(index);
            words = rest;
        }
        _ => {}
    }
    let [kind, name, "=", number] = words else { return None };
    field.name = (*name).to_owned();
    field.number = number.parse().ok()?;
    field.kind = match *kind {
        "double" => 1,
        "float" => 2,
        "int64" => 3,
        "uint64" => 4,
        "int32" => 5,
        "bool" => 8,
        "string" => 9,
        "bytes" => 12,
        "uint32" => 13,
        type_name => {
            field.type_name = type_name.to_owned();
            if enums.iter().any(|found| found == type_name) { 14 } else { 11 }
        }
    };
    field.packed = field.repeated && !matches!(field.kind, 9 | 11 | 12);
    message.fields.push(field);
    Some(())
}
