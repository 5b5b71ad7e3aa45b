//! Reads the support table, `src/support/*.txt`, into the schema. The format is described in `src/support/mod.rs`.

use crate::{
    descriptor::Schema,
    layout::{SUPPORT_FULL, SUPPORT_INERT, SUPPORT_NONE, SUPPORT_SECURITY, VALUE_SECURITY, VALUE_UNSUPPORTED},
};

/// Applies one file. An error begins with the line number.
pub(crate) fn apply(schema: &mut Schema, text: &str) -> Result<(), String> {
    let mut current = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fail = |reason: String| format!("{}: {reason}", index + 1);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let message = schema.message(name).ok_or_else(|| fail(format!("no message {name}")))?;
            if std::mem::replace(&mut schema.messages[message].listed, true) {
                return Err(fail(format!("{name} is listed twice")));
            }
            current = Some(message);
            continue;
        }
        let message = current.ok_or_else(|| fail("no message yet".to_owned()))?;
        entry(schema, message, line).map_err(fail)?;
    }
    Ok(())
}

fn entry(schema: &mut Schema, message: usize, line: &str) -> Result<(), String> {
    let (sign, rest) = line.split_once(' ').ok_or("a sign and names are needed")?;
    let (names, reason) = match rest.split_once(": ") {
        Some((names, reason)) => (names, reason.trim()),
        None => (rest, ""),
    };
    for name in names.split_whitespace() {
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let support = match sign {
            "+" => SUPPORT_FULL,
            "~" => SUPPORT_INERT,
            "-" => SUPPORT_NONE,
            "!" => SUPPORT_NONE | SUPPORT_SECURITY,
            "!+" => SUPPORT_FULL | SUPPORT_SECURITY,
            "!~" => SUPPORT_INERT | SUPPORT_SECURITY,
            other => return Err(format!("unknown sign {other}")),
        };
        if support & !SUPPORT_SECURITY == SUPPORT_INERT && reason.is_empty() {
            return Err(format!("{name} is inert: say why"));
        }
        let message_name = schema.messages[message].name.clone();
        let field = schema.messages[message]
            .fields
            .iter_mut()
            .find(|field| field.name == name)
            .ok_or_else(|| format!("{message_name} has no field {name}"))?;
        let Some(value) = value else {
            if field.support != 0 || !field.reason.is_empty() {
                return Err(format!("{name} is listed twice"));
            }
            field.support = support;
            field.reason = reason.to_owned();
            continue;
        };
        if support & !SUPPORT_SECURITY != SUPPORT_NONE {
            return Err(format!("{name}={value}: values are listed only where they are not supported"));
        }
        let type_name = field.type_name.clone();
        let index = schema.enumeration(&type_name).ok_or_else(|| format!("{name} is no enum"))?;
        let entry = schema.enums[index]
            .values
            .iter_mut()
            .find(|v| v.name == value)
            .ok_or_else(|| format!("{type_name} has no value {value}"))?;
        entry.flags |= VALUE_UNSUPPORTED | if support & SUPPORT_SECURITY != 0 { VALUE_SECURITY } else { 0 };
        entry.reason = reason.to_owned();
    }
    Ok(())
}
