//! Reading the configuration of an extension with serde.
//!
//! For extensions whose message only they know: a struct that derives [`serde::Deserialize`] (with
//! `#[serde(deny_unknown_fields)]`, so that nothing is ignored in silence) is read from the document's tree, and an
//! error names the field and has its line and column.
//!
//! ```
//! use sota_config::{ConfigError, TypedConfig};
//! use sota_plugin::{FactoryContext, de::read_config};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct Stamp {
//!     header: String,
//!     times: u32,
//! }
//!
//! impl Default for Stamp {
//!     fn default() -> Self {
//!         Self { header: "x-stamp".to_owned(), times: 1 }
//!     }
//! }
//!
//! fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Stamp, ConfigError> {
//!     read_config(config, cx)
//! }
//! ```

use crate::{FactoryContext, format::operator::distance};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor, value::StrDeserializer,
};
use sota_config::{ConfigError, Mark, Node, TypedConfig, Value};
use std::{fmt, sync::Arc};

/// Reads a configuration. Nothing but a name reads as an empty map, so a type whose fields all have defaults can be
/// named without configuration. A message that came as wire bytes cannot be read without its descriptor and is an
/// error.
pub fn read_config<T: DeserializeOwned>(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<T, ConfigError> {
    let result = match config {
        TypedConfig::Value { node, .. } => read_node(node),
        TypedConfig::Empty => read_node(&Node::map()),
        TypedConfig::Proto { type_url, .. } => Err(ConfigError::new(
            "",
            Mark::NONE,
            format!(
                "the message {type_url} came as protobuf bytes, which this extension does not read; send it as \
                 xds.type.v3.TypedStruct"
            ),
        )),
    };
    result.map_err(|error| error.at(cx.path, cx.mark))
}

/// Parts a configuration that two readers share: the fields of these names, and the others.
pub fn split_config(config: &TypedConfig, names: &[&str]) -> (TypedConfig, TypedConfig) {
    let TypedConfig::Value { node, .. } = config else { return (TypedConfig::Empty, config.clone()) };
    let (own, others) = node.pairs().iter().cloned().partition(|(name, _)| names.contains(&&**name));
    let part = |pairs| {
        let mut part = config.clone();
        if let TypedConfig::Value { node: whole, .. } = &mut part {
            *whole = Arc::new(Node { value: Value::Map(pairs), mark: node.mark });
        }
        part
    };
    (part(own), part(others))
}

/// Reads a tree. The path of an error begins at this node, such as `limits[2].max`.
pub fn read_node<T: DeserializeOwned>(node: &Node) -> Result<T, ConfigError> {
    T::deserialize(Reader(node))
        .map_err(|error| ConfigError::new(error.path, error.mark.unwrap_or_default(), error.reason))
}

/// What serde makes and passes upwards; each level adds its part of the path.
#[derive(Debug)]
struct Error {
    reason: String,
    path: String,
    /// `None` until a level knows where it is.
    mark: Option<Mark>,
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { reason: reason.to_string(), path: String::new(), mark: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let name = field.escape_debug();
        Self::custom(match nearest(field, expected) {
            Some(near) => format!("unknown field \"{name}\"; did you mean \"{near}\"?"),
            None if expected.is_empty() => format!("unknown field \"{name}\"; there are none"),
            None => format!("unknown field \"{name}\"; there are: {}", expected.join(", ")),
        })
    }
}

/// The known name that differs from this one in few letters only.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let nearest = known.iter().map(|known| (distance(known, name), *known)).min();
    nearest.filter(|(distance, _)| *distance <= name.len().div_ceil(3).min(4)).map(|(_, near)| near)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Seen from the node that holds the one where it happened.
    fn within(mut self, key: &str, node: &Node) -> Self {
        if !self.path.is_empty() && !self.path.starts_with('[') {
            self.path.insert(0, '.');
        }
        self.path.insert_str(0, key);
        self.mark.get_or_insert(node.mark);
        self
    }

    fn at(mut self, node: &Node) -> Self {
        self.mark.get_or_insert(node.mark);
        self
    }
}

/// A node as serde reads it.
struct Reader<'a>(&'a Node);

impl Reader<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.0.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Int(number) => Unexpected::Signed(*number),
            Value::UInt(number) => Unexpected::Unsigned(*number),
            Value::Float(number) => Unexpected::Float(*number),
            Value::String(text) => Unexpected::Str(text),
            Value::Bytes(bytes) => Unexpected::Bytes(bytes),
            Value::Duration { .. } => Unexpected::Other("duration"),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.0;
        let result = match &node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::UInt(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_str(text),
            Value::Bytes(bytes) => visitor.visit_bytes(bytes),
            // As proto3 JSON writes it.
            Value::Duration { seconds, nanos } => visitor.visit_string(duration_text(*seconds, *nanos)),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), len: items.len() }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        };
        result.map_err(|error| error.at(node))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let node = self.0;
        let result = match &node.value {
            Value::String(name) => visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(&**name)),
            Value::Map(entries) => match entries.as_slice() {
                [(name, value)] => visitor.visit_enum(Variant { name, value }),
                _ => Err(serde::de::Error::custom("expected a map with the one key that says which kind it is")),
            },
            _ => Err(serde::de::Error::invalid_type(self.unexpected(), &"a name or a map with one key")),
        };
        result.map_err(|error| error.at(node))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn duration_text(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let fraction = if nanos == 0 { String::new() } else { format!(".{:09}", nanos.unsigned_abs()) };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction.trim_end_matches('0'))
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    len: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reader(node)).map(Some).map_err(|error| error.within(&format!("[{index}]"), node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.len)
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Arc<str>, Node)>,
    value: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        // A null field reads as absent, as everywhere in the document.
        let Some((key, node)) = self.entries.find(|(_, node)| !node.is_null()) else { return Ok(None) };
        self.value = Some((key, node));
        let key: StrDeserializer<'_, Error> = (**key).into_deserializer();
        // An unknown field is found out here: it stands where its value stands.
        seed.deserialize(key).map(Some).map_err(|error| error.at(node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, node) = self.value.take().ok_or_else(|| serde::de::Error::custom("a value was read twice"))?;
        seed.deserialize(Reader(node)).map_err(|error| error.within(key, node))
    }
}

/// An enum's variant with data: `{name: data}`.
struct Variant<'a> {
    name: &'a str,
    value: &'a Node,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name).map_err(|error| error.at(self.value))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        let is_empty = self.value.is_null() || matches!(&self.value.value, Value::Map(entries) if entries.is_empty());
        if is_empty {
            return Ok(());
        }
        let error: Error = serde::de::Error::invalid_type(Reader(self.value).unexpected(), &"nothing");
        Err(error.within(self.name, self.value))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(Reader(self.value)).map_err(|error| error.within(self.name, self.value))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        Reader(self.value).deserialize_any(visitor).map_err(|error| error.within(self.name, self.value))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        Reader(self.value).deserialize_any(visitor).map_err(|error| error.within(self.name, self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registry, access_log::LogOpener, runtime::Runtime};
    use serde::Deserialize;
    use sota_config::bootstrap::NodeInfo;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        name: String,
        limits: Vec<Limit>,
        ratio: Option<f64>,
        mode: Mode,
        wait: String,
        port: u16,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limit {
        max: u32,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Off,
        Every(u32),
        Between {
            low: u32,
            high: u32,
        },
    }

    /// A node whose column says which of the document's it is.
    fn at(column: u32, value: Value) -> Node {
        Node { value, mark: Mark { line: 1, column } }
    }

    fn map(entries: Vec<(&str, Node)>) -> Value {
        Value::Map(entries.into_iter().map(|(key, node)| (key.into(), node)).collect())
    }

    fn read(entries: Vec<(&str, Node)>) -> Result<Config, (String, u32, String)> {
        read_node(&at(1, map(entries))).map_err(|error| (error.path, error.mark.column, error.reason))
    }

    fn string(column: u32, text: &str) -> Node {
        at(column, Value::String(text.into()))
    }

    #[test]
    fn every_kind_of_value() {
        let limits = Value::List(vec![at(4, map(vec![("max", at(5, Value::Int(7)))]))]);
        let config = read(vec![
            ("name", string(2, "n")),
            ("limits", at(3, limits)),
            ("ratio", at(6, Value::Float(0.5))),
            ("mode", at(7, map(vec![("every", at(8, Value::Int(3)))]))),
            ("wait", at(9, Value::Duration { seconds: 1, nanos: 500_000_000 })),
            ("port", at(10, Value::Null)),
        ]);
        let expected = Config {
            name: "n".into(),
            limits: vec![Limit { max: 7 }],
            ratio: Some(0.5),
            mode: Mode::Every(3),
            wait: "1.5s".into(),
            port: 0,
        };
        assert_eq!(config, Ok(expected));
        let between = map(vec![("low", at(3, Value::Int(1))), ("high", at(4, Value::Int(2)))]);
        let config = read(vec![("mode", at(2, map(vec![("between", at(2, between))])))]).unwrap();
        assert_eq!(config.mode, Mode::Between { low: 1, high: 2 });
        assert_eq!(read(vec![("mode", string(2, "off"))]).unwrap().mode, Mode::Off);
    }

    #[test]
    fn errors_have_a_place() {
        let limits =
            |item| vec![("limits", at(2, Value::List(vec![at(3, map(vec![("max", at(4, Value::Int(1)))])), item])))];
        for (entries, path, column, reason) in [
            (vec![("nam", string(2, "n"))], "", 2, "unknown field \"nam\"; did you mean \"name\"?"),
            (vec![("name", at(2, Value::Int(1)))], "name", 2, "invalid type: integer `1`, expected a string"),
            (vec![("port", at(2, Value::Int(70_000)))], "port", 2, "invalid value: integer `70000`, expected u16"),
            (vec![("port", at(2, Value::Int(-1)))], "port", 2, "invalid value: integer `-1`, expected u16"),
            (limits(at(5, map(vec![]))), "limits[1]", 5, "missing field `max`"),
            (
                limits(at(5, map(vec![("max", string(6, "x"))]))),
                "limits[1].max",
                6,
                "invalid type: string \"x\", expected u32",
            ),
            (
                vec![("mode", string(2, "on"))],
                "mode",
                2,
                "unknown variant `on`, expected one of `off`, `every`, `between`",
            ),
            (
                vec![("mode", at(2, map(vec![("every", string(3, "x"))])))],
                "mode.every",
                3,
                "invalid type: string \"x\", expected u32",
            ),
            (
                vec![("mode", at(2, Value::Bool(true)))],
                "mode",
                2,
                "invalid type: boolean `true`, expected a name or a map with one key",
            ),
            (
                vec![("mode", at(2, map(vec![("off", at(3, Value::Int(1)))])))],
                "mode.off",
                3,
                "invalid type: integer `1`, expected nothing",
            ),
            (
                vec![("mode", at(2, map(vec![])))],
                "mode",
                2,
                "expected a map with the one key that says which kind it is",
            ),
        ] {
            assert_eq!(read(entries), Err((path.to_owned(), column, reason.to_owned())));
        }
    }

    struct NoLogs;

    impl LogOpener for NoLogs {
        fn open(&self, path: &str) -> Result<Arc<dyn crate::access_log::LogFile>, std::io::Error> {
            Err(std::io::Error::other(path.to_owned()))
        }
    }

    #[test]
    fn the_three_forms_of_configuration() {
        let (registry, runtime, node) = (Registry::default(), Arc::new(Runtime::default()), NodeInfo::default());
        let logs: Arc<dyn LogOpener> = Arc::new(NoLogs);
        let mark = Mark { line: 9, column: 9 };
        let (logs, runtime) = (&logs, &runtime);
        let cx = FactoryContext {
            registry: &registry,
            logs,
            runtime,
            node: &node,
            secrets: &Arc::default(),
            stat_prefix: "",
            clusters: None,
            path: "filters[0]",
            mark,
        };
        let read = |config: &TypedConfig| read_config::<Config>(config, &cx);
        assert_eq!(read(&TypedConfig::Empty), Ok(Config::default()));

        let node = Arc::new(Node::new(map(vec![("port", string(3, "x"))])));
        let error = read(&TypedConfig::Value { type_url: None, node }).unwrap_err();
        assert_eq!((error.path.as_str(), error.mark), ("filters[0].port", Mark { line: 1, column: 3 }));

        let proto =
            TypedConfig::Proto { type_url: "example.com/a.B".into(), bytes: bytes::Bytes::from_static(b"\x08\x01") };
        let error = read(&proto).unwrap_err();
        assert_eq!((error.path.as_str(), error.mark), ("filters[0]", mark));
        assert!(error.reason.contains("a.B") && error.reason.contains("TypedStruct"), "{error}");
    }
}
