//! Envoy's dialect: bytes in, a checked and normalised document out, and from there the model.
//!
//! Everything between bytes and a checked [`Node`](sota_config::Node) is driven by one static table of Envoy's
//! messages: names, types, validation rules, sensitivity and support. [`parse_text`] reads YAML and JSON, [`check`]
//! walks a document along the table, [`check_wire`] does the same for protobuf bytes, [`dump_json`] writes the JSON of
//! admin dumps and [`encode`] the bytes for a control plane. From there [`load`] and its fellows translate to the model;
//! the native dialect is lowered to Envoy's shape and takes the same way.

mod check;
pub mod discovery;
mod dump;
mod field_mask;
pub mod fuzzing;
mod load;
mod merge;
mod native;
mod render;
mod secrets;
pub mod support;
mod table;
mod text;
mod translate;
mod well_known;
mod wire;

pub use check::{CheckOptions, check, check_wire};
pub use dump::{dump_json, dump_json_any};
pub use field_mask::FieldMask;
pub use load::{ENVOY, LoadOptions, Loaded, SOTA, load};
pub use render::render;
pub use secrets::read_secrets;
pub use text::{MAX_TEXT_BYTES, parse_text};
pub use translate::{
    TranslateOptions, read_access_log, translate_cluster, translate_listener, translate_load_assignment,
    translate_route_configuration, translate_secret,
};
pub use wire::encode;
