//! The message table: what the build script wrote, read in place.
//!
//! [`Message`], [`Field`], [`Oneof`], [`Enum`] and [`EnumValue`] are indices into one static blob; every accessor
//! reads a few bytes of it, so nothing is parsed or allocated when the program starts, and only the pages of the
//! messages in use are ever touched.

#[allow(dead_code, reason = "each side of the layout uses its part")]
mod layout;

use layout::{
    ENUM_SIZE, FIELD_DEPRECATED, FIELD_MAP, FIELD_OPTIONAL, FIELD_PACKED, FIELD_REPEATED, FIELD_SENSITIVE, FIELD_SIZE,
    MESSAGE_LISTED, MESSAGE_SIZE, NO_ONEOF, NO_TYPE, ONEOF_SIZE, SECTION_ENUMS, SECTION_FIELDS, SECTION_MESSAGES,
    SECTION_ONEOFS, SECTION_TEXTS, SECTION_VALUES, SUPPORT_FULL, SUPPORT_INERT, SUPPORT_SECURITY, VALUE_DEPRECATED,
    VALUE_SECURITY, VALUE_SIZE, VALUE_UNSUPPORTED,
};

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/messages.table"));

fn u16_at(at: usize) -> u16 {
    TABLE.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(at: usize) -> u32 {
    TABLE.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u8_at(at: usize) -> u8 {
    TABLE.get(at).copied().unwrap_or(0)
}

fn section(number: usize) -> usize {
    u32_at(number * 8) as usize
}

fn count(number: usize) -> u32 {
    u32_at(number * 8 + 4)
}

fn bytes_of(reference: u32) -> &'static [u8] {
    let at = section(SECTION_TEXTS) + reference as usize;
    let length = usize::from(u16_at(at));
    TABLE.get(at + 2..at + 2 + length).unwrap_or(&[])
}

fn text_of(reference: u32) -> &'static str {
    // The build script writes UTF-8 only; anything else would read as no text.
    std::str::from_utf8(bytes_of(reference)).unwrap_or("")
}

/// The record of this name in a section that is sorted by name.
fn find(number: usize, size: usize, name: &str) -> Option<u32> {
    let start = section(number);
    let (mut low, mut high) = (0, count(number));
    while low < high {
        let middle = low + (high - low) / 2;
        match bytes_of(u32_at(start + middle as usize * size)).cmp(name.as_bytes()) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(middle),
        }
    }
    None
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    UInt64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message(Message),
    Bytes,
    UInt32,
    Enum(Enum),
    SFixed32,
    SFixed64,
    SInt32,
    SInt64,
}

/// Whether a field does anything here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Its whole meaning is there.
    Full,
    /// It is accepted and changes nothing, for this reason.
    Inert(&'static str),
    /// It is refused; the reason may be empty.
    None(&'static str),
}

/// Messages whose JSON form is not that of their fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WellKnown {
    Any,
    Duration,
    Timestamp,
    FieldMask,
    Empty,
    Struct,
    Value,
    ListValue,
    /// `BoolValue`, `UInt32Value`…: a message with one field `value`.
    Wrapper(Field),
}

/// A message of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message(u16);

impl Message {
    /// The message of this full name.
    pub(crate) fn find(name: &str) -> Option<Self> {
        find(SECTION_MESSAGES, MESSAGE_SIZE, name).and_then(|index| u16::try_from(index).ok()).map(Self)
    }

    /// Every message, by name.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..u16::try_from(count(SECTION_MESSAGES)).unwrap_or(u16::MAX)).map(Self)
    }

    fn at(self) -> usize {
        section(SECTION_MESSAGES) + usize::from(self.0) * MESSAGE_SIZE
    }

    pub(crate) fn name(self) -> &'static str {
        text_of(u32_at(self.at()))
    }

    /// The name without its package.
    pub(crate) fn short_name(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or("")
    }

    /// Fields in the order of their declaration, which is also the order of dumps.
    pub(crate) fn fields(self) -> impl ExactSizeIterator<Item = Field> + Clone {
        let (first, count) = (u32_at(self.at() + 4), usize::from(u16_at(self.at() + 12)));
        (0..count).map(move |i| Field(first + i as u32))
    }

    /// The field that a document calls `key`: by its proto name or its lowerCamelCase one.
    pub(crate) fn field_by_key(self, key: &str) -> Option<Field> {
        self.fields().find(|field| field.has_key(key))
    }

    pub(crate) fn field_by_number(self, number: u32) -> Option<Field> {
        self.fields().find(|field| field.number() == number)
    }

    /// Where a field of this message stands in its declaration order.
    pub(crate) fn position(self, field: Field) -> usize {
        field.0.saturating_sub(u32_at(self.at() + 4)) as usize
    }

    pub(crate) fn oneofs(self) -> impl ExactSizeIterator<Item = Oneof> {
        let (first, count) = (u32_at(self.at() + 8), u32::from(u8_at(self.at() + 14)));
        (0..count as usize).map(move |i| Oneof(first + i as u32))
    }

    /// Whether the support table speaks of this message.
    pub(crate) fn is_listed(self) -> bool {
        u8_at(self.at() + 15) & MESSAGE_LISTED != 0
    }

    /// The special form, when this is one of protobuf's own messages.
    pub(crate) fn well_known(self) -> Option<WellKnown> {
        let name = self.name().strip_prefix("google.protobuf.")?;
        Some(match name {
            "Any" => WellKnown::Any,
            "Duration" => WellKnown::Duration,
            "Timestamp" => WellKnown::Timestamp,
            "FieldMask" => WellKnown::FieldMask,
            "Empty" => WellKnown::Empty,
            "Struct" => WellKnown::Struct,
            "Value" => WellKnown::Value,
            "ListValue" => WellKnown::ListValue,
            name if name.ends_with("Value") => WellKnown::Wrapper(self.fields().next()?),
            _ => return None,
        })
    }
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field(u32);

impl Field {
    fn at(self) -> usize {
        section(SECTION_FIELDS) + self.0 as usize * FIELD_SIZE
    }

    pub(crate) fn name(self) -> &'static str {
        text_of(u32_at(self.at()))
    }

    /// A number that is the same for fields of the same name, for caches of names.
    pub(crate) fn name_id(self) -> u32 {
        u32_at(self.at())
    }

    pub(crate) fn number(self) -> u32 {
        u32_at(self.at() + 4)
    }

    /// `validate.FieldRules`, encoded; empty when there are none.
    pub(crate) fn rules(self) -> &'static [u8] {
        bytes_of(u32_at(self.at() + 8))
    }

    pub(crate) fn kind(self) -> Kind {
        let type_ref = u16_at(self.at() + 16);
        let message = if type_ref == NO_TYPE { Message(0) } else { Message(type_ref) };
        match u8_at(self.at() + 18) {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::UInt64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            12 => Kind::Bytes,
            13 => Kind::UInt32,
            14 => Kind::Enum(Enum(type_ref)),
            15 => Kind::SFixed32,
            16 => Kind::SFixed64,
            17 => Kind::SInt32,
            18 => Kind::SInt64,
            _ => Kind::Message(message),
        }
    }

    fn flag(self, bit: u8) -> bool {
        u8_at(self.at() + 19) & bit != 0
    }

    /// A list (a map is none).
    pub(crate) fn is_repeated(self) -> bool {
        self.flag(FIELD_REPEATED)
    }

    /// A map: its kind is the entry message, whose fields are `key` and `value`.
    pub(crate) fn is_map(self) -> bool {
        self.flag(FIELD_MAP)
    }

    pub(crate) fn is_deprecated(self) -> bool {
        self.flag(FIELD_DEPRECATED)
    }

    /// Never shown in dumps.
    pub(crate) fn is_sensitive(self) -> bool {
        self.flag(FIELD_SENSITIVE)
    }

    pub(crate) fn is_packed(self) -> bool {
        self.flag(FIELD_PACKED)
    }

    /// Whether absent and default differ: messages, `optional`, members of a oneof.
    pub(crate) fn has_presence(self) -> bool {
        !self.is_repeated()
            && !self.is_map()
            && (self.flag(FIELD_OPTIONAL) || self.oneof().is_some() || matches!(self.kind(), Kind::Message(_)))
    }

    /// The number of its oneof within the message.
    pub(crate) fn oneof(self) -> Option<usize> {
        let index = u8_at(self.at() + 20);
        (index != NO_ONEOF).then_some(usize::from(index))
    }

    pub(crate) fn support(self) -> Support {
        let reason = text_of(u32_at(self.at() + 12));
        match u8_at(self.at() + 21) & !SUPPORT_SECURITY {
            SUPPORT_FULL => Support::Full,
            SUPPORT_INERT => Support::Inert(reason),
            _ => Support::None(reason),
        }
    }

    /// Refused even where unsupported fields are allowed.
    pub(crate) fn is_security(self) -> bool {
        u8_at(self.at() + 21) & SUPPORT_SECURITY != 0
    }

    /// Whether a document may call this field so.
    fn has_key(self, key: &str) -> bool {
        let name = self.name();
        name == key || is_json_name(name, key)
    }

    /// The key and value fields of a map's entries; `None` for what is no map.
    pub(crate) fn map_entry(self) -> Option<(Self, Self)> {
        if !self.is_map() {
            return None;
        }
        let Kind::Message(entry) = self.kind() else { return None };
        Some((entry.field_by_number(1)?, entry.field_by_number(2)?))
    }
}

/// Whether `key` is `name` in lowerCamelCase.
fn is_json_name(name: &str, key: &str) -> bool {
    let mut key = key.bytes();
    let mut upper = false;
    for byte in name.bytes() {
        if byte == b'_' {
            upper = true;
            continue;
        }
        let expected = if upper { byte.to_ascii_uppercase() } else { byte };
        upper = false;
        if key.next() != Some(expected) {
            return false;
        }
    }
    key.next().is_none()
}

/// A oneof of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oneof(u32);

impl Oneof {
    fn at(self) -> usize {
        section(SECTION_ONEOFS) + self.0 as usize * ONEOF_SIZE
    }

    pub(crate) fn name(self) -> &'static str {
        text_of(u32_at(self.at()))
    }

    pub(crate) fn is_required(self) -> bool {
        u32_at(self.at() + 4) != 0
    }
}

/// An enum of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Enum(u16);

impl Enum {
    fn at(self) -> usize {
        section(SECTION_ENUMS) + usize::from(self.0) * ENUM_SIZE
    }

    pub(crate) fn name(self) -> &'static str {
        text_of(u32_at(self.at()))
    }

    pub(crate) fn values(self) -> impl ExactSizeIterator<Item = EnumValue> {
        let (first, count) = (u32_at(self.at() + 4), u32_at(self.at() + 8) as usize);
        (0..count).map(move |i| EnumValue(first + i as u32))
    }

    pub(crate) fn value_by_name(self, name: &str) -> Option<EnumValue> {
        self.values().find(|value| value.name() == name)
    }

    pub(crate) fn value_by_number(self, number: i32) -> Option<EnumValue> {
        self.values().find(|value| value.number() == number)
    }
}

/// A value of an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EnumValue(u32);

impl EnumValue {
    fn at(self) -> usize {
        section(SECTION_VALUES) + self.0 as usize * VALUE_SIZE
    }

    pub(crate) fn name(self) -> &'static str {
        text_of(u32_at(self.at()))
    }

    pub(crate) fn name_id(self) -> u32 {
        u32_at(self.at())
    }

    pub(crate) fn number(self) -> i32 {
        u32_at(self.at() + 4).cast_signed()
    }

    fn flag(self, bit: u32) -> bool {
        u32_at(self.at() + 12) & bit != 0
    }

    pub(crate) fn is_deprecated(self) -> bool {
        self.flag(VALUE_DEPRECATED)
    }

    /// Why this value is refused, when it is; the reason may be empty.
    pub(crate) fn unsupported(self) -> Option<&'static str> {
        self.flag(VALUE_UNSUPPORTED).then(|| text_of(u32_at(self.at() + 8)))
    }

    /// Refused even where unsupported values are allowed.
    pub(crate) fn is_security(self) -> bool {
        self.flag(VALUE_SECURITY)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Message, TABLE, WellKnown, is_json_name};

    #[test]
    fn finds_messages_and_fields() {
        let listener = Message::find("envoy.config.listener.v3.Listener").expect("a message of the API");
        assert_eq!(listener.short_name(), "Listener");
        let field = listener.field_by_key("filterChains").expect("camel case");
        assert_eq!((field.name(), field.number()), ("filter_chains", 3));
        assert!(field.is_repeated());
        assert_eq!(listener.field_by_number(3), Some(field));
        assert!(matches!(field.kind(), Kind::Message(m) if m.name() == "envoy.config.listener.v3.FilterChain"));
        assert!(Message::find("envoy.config.listener.v3.Listen").is_none());
        assert!(Message::find("").is_none());
    }

    #[test]
    fn every_message_is_found_by_its_name() {
        let mut count = 0;
        for message in Message::all() {
            assert_eq!(Message::find(message.name()), Some(message));
            for field in message.fields() {
                assert!(!field.name().is_empty() && field.number() > 0, "{}", message.name());
                if field.is_map() {
                    assert!(field.map_entry().is_some(), "{}.{}", message.name(), field.name());
                }
            }
            count += 1;
        }
        assert!(count > 1_500, "{count}");
        assert!(TABLE.len() < 512 * 1024, "the table has {} bytes", TABLE.len());
    }

    #[test]
    fn knows_the_special_messages() {
        let wrapper = Message::find("google.protobuf.UInt32Value").and_then(Message::well_known);
        assert!(matches!(wrapper, Some(WellKnown::Wrapper(field)) if field.kind() == Kind::UInt32));
        assert_eq!(Message::find("google.protobuf.Value").and_then(Message::well_known), Some(WellKnown::Value));
        assert_eq!(Message::find("xds.type.v3.TypedStruct").and_then(Message::well_known), None);
    }

    #[test]
    fn keeps_the_options() {
        let tls = Message::find("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").expect("TLS");
        assert!(tls.field_by_key("private_key").is_some_and(|f| f.is_sensitive()));
        let matcher = Message::find("envoy.type.matcher.v3.StringMatcher").expect("matcher");
        assert!(matcher.oneofs().next().is_some_and(|o| o.is_required() && o.name() == "match_pattern"));
        let port = Message::find("envoy.config.core.v3.SocketAddress").and_then(|m| m.field_by_key("portValue"));
        assert!(port.is_some_and(|f| !f.rules().is_empty() && f.oneof().is_some()));
    }

    #[test]
    fn camel_case() {
        assert!(is_json_name("a_b_c", "aBC"));
        assert!(!is_json_name("a_b", "ab"));
        assert!(is_json_name("http2_protocol_options", "http2ProtocolOptions"));
        assert!(!is_json_name("ab", "abc"));
    }
}
