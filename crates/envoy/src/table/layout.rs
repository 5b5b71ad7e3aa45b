//! The layout of the message table, shared by the build script that writes it and the accessors that read it.
//!
//! All numbers are little-endian. The table begins with [`HEADER`] words: offset and count of each section, in the
//! order of the `SECTION_*` constants. Records have fixed sizes. A *text reference* is an offset into the last
//! section, where a `u16` length and the bytes stand; 0 is the empty text, as the section begins with a zero length.

/// Words (`u32`) before the first section.
pub(crate) const HEADER: usize = 12;

/// Messages by name: name (text, `u32`), first field (`u32`), first oneof (`u32`), fields (`u16`), oneofs (`u8`),
/// flags (`u8`).
pub(crate) const SECTION_MESSAGES: usize = 0;
/// Fields of each message in declaration order: name (text), number (`u32`), rules (text of `validate.FieldRules`
/// bytes), reason (text, why inert or why not), type reference (`u16`: message or enum), type (`u8`, the numbers of
/// `FieldDescriptorProto.Type`), flags (`u8`), oneof (`u8`, within the message), support (`u8`), padding (`u16`).
pub(crate) const SECTION_FIELDS: usize = 1;
/// Oneofs: name (text), 1 when one of them is required (`u32`).
pub(crate) const SECTION_ONEOFS: usize = 2;
/// Enums by name: name (text), first value (`u32`), values (`u32`).
pub(crate) const SECTION_ENUMS: usize = 3;
/// Values of each enum: name (text), number (`i32`), reason (text), flags (`u32`).
pub(crate) const SECTION_VALUES: usize = 4;
/// Texts and rules.
pub(crate) const SECTION_TEXTS: usize = 5;

pub(crate) const MESSAGE_SIZE: usize = 16;
pub(crate) const FIELD_SIZE: usize = 24;
pub(crate) const ONEOF_SIZE: usize = 8;
pub(crate) const ENUM_SIZE: usize = 12;
pub(crate) const VALUE_SIZE: usize = 16;

/// A message that stands for an entry of a map field: `key` and `value`.
pub(crate) const MESSAGE_MAP_ENTRY: u8 = 1;
/// A message that the support table lists.
pub(crate) const MESSAGE_LISTED: u8 = 2;

pub(crate) const FIELD_REPEATED: u8 = 1;
pub(crate) const FIELD_MAP: u8 = 2;
pub(crate) const FIELD_DEPRECATED: u8 = 4;
pub(crate) const FIELD_SENSITIVE: u8 = 8;
/// `optional` in proto3: absent and default differ.
pub(crate) const FIELD_OPTIONAL: u8 = 16;
pub(crate) const FIELD_PACKED: u8 = 32;

/// The field is not listed in the support table, or listed as unsupported.
pub(crate) const SUPPORT_NONE: u8 = 0;
pub(crate) const SUPPORT_FULL: u8 = 1;
pub(crate) const SUPPORT_INERT: u8 = 2;
/// Bit: refused even where unsupported fields are allowed.
pub(crate) const SUPPORT_SECURITY: u8 = 128;

pub(crate) const VALUE_DEPRECATED: u32 = 1;
/// The value is not supported; the reason may say why.
pub(crate) const VALUE_UNSUPPORTED: u32 = 2;
/// Refused even where unsupported values are allowed.
pub(crate) const VALUE_SECURITY: u32 = 4;

/// No type reference.
pub(crate) const NO_TYPE: u16 = u16::MAX;
/// Not in a oneof.
pub(crate) const NO_ONEOF: u8 = u8::MAX;
