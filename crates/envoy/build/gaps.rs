//! Messages that real configurations hold and the descriptor set lacks, described by `src/gaps.txt`.

use crate::descriptor::{Field, Message, Oneof, Schema};

/// Adds the messages of the text:
///
/// ```text
/// message xds.type.v3.TypedStruct
///   string type_url = 1
///   repeated google.protobuf.Struct value = 2     # "repeated" or "oneof NAME" may stand before
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
            schema.messages.push(Message {
                name: name.to_owned(),
                fields: Vec::new(),
                oneofs: Vec::new(),
                map_entry: false,
                listed: false,
            });
            continue;
        }
        let message = schema.messages.last_mut().ok_or_else(|| format!("src/gaps.txt:{}: no message", index + 1))?;
        add_field(message, &words).ok_or_else(|| format!("src/gaps.txt:{}: cannot read this line", index + 1))?;
    }
    Ok(())
}

fn add_field(message: &mut Message, words: &[&str]) -> Option<()> {
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
            11
        }
    };
    field.packed = field.repeated && !matches!(field.kind, 9 | 11 | 12);
    message.fields.push(field);
    Some(())
}
