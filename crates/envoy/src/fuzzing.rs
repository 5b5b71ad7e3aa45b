//! What the fuzz targets call: one function for each kind of input, which panics when an invariant does not hold.
//! The ordinary tests replay every seed and past finding of `fuzz/corpus/<target>/` through the same functions.

use crate::{
    CheckOptions, LoadOptions, check, check_wire, discovery::Response, dump_json, encode, load, parse_text, render,
};
use sota_config::dialect::NoExtensions;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

const LENIENT: CheckOptions<'static> = CheckOptions {
    static_config: false,
    allow_unknown_fields: true,
    allow_unsupported: true,
    relaxed: false,
    claims: &|_| true,
};

/// Target `yaml`: a document as YAML or JSON. Every error has a reason, and can be shown.
pub fn fuzz_yaml(data: &[u8]) {
    if let Err(errors) = parse_text(data) {
        assert!(errors.is_fatal() && errors.0.iter().all(|error| !error.reason.is_empty()));
        assert!(!render(&errors, "x.yaml", data).is_empty());
    }
}

/// Target `check`: a document against the message table. What passed is the same when it is checked again, and
/// can be dumped.
pub fn fuzz_check(data: &[u8]) {
    let Ok(document) = parse_text(data) else { return };
    let (node, errors) = check(&document, BOOTSTRAP, &LENIENT);
    if !errors.is_fatal() {
        let (again, errors) = check(&node, BOOTSTRAP, &LENIENT);
        assert!(!errors.is_fatal() && again == node, "{errors}");
        let mut json = String::new();
        assert!(dump_json(&node, BOOTSTRAP, 0, &mut json).is_ok());
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        if let Ok(bytes) = encode(&node, BOOTSTRAP) {
            fuzz_wire(&bytes);
        }
    }
}

/// Target `wire`: a document as protobuf bytes.
pub fn fuzz_wire(data: &[u8]) {
    let (node, errors) = check_wire(data, BOOTSTRAP, &LENIENT);
    if !errors.is_fatal() {
        let _ = encode(&node, BOOTSTRAP);
    }
}

/// Target `discovery`: what a control plane sends, as either kind of response, and what a file of resources holds. Each
/// resource can be looked at and checked.
pub fn fuzz_discovery(data: &[u8]) {
    let bytes = bytes::Bytes::copy_from_slice(data);
    for read in
        [Response::decode(&bytes).ok(), Response::decode_delta(&bytes).ok(), Response::read_file(data, "x").ok()]
    {
        for resource in read.iter().flat_map(|response| &response.resources) {
            let (_, errors) = resource.check(&LENIENT);
            assert!(errors.0.iter().all(|error| !error.reason.is_empty()));
            assert_eq!(resource.fingerprint(), resource.clone().fingerprint());
            let _ = resource.text_field(1, "name");
        }
    }
}

/// Target `load`: a file in any dialect, through all of loading. What is refused has an error, and an error a reason.
pub fn fuzz_load(data: &[u8]) {
    for (dialect, name, allow) in [
        (None, "x.yaml", false),
        (Some("envoy"), "x.yaml", true),
        (Some("sota"), "x.yaml", false),
        (Some("sota"), "x.yaml", true),
        (None, "x.pb", true),
    ] {
        let options = LoadOptions {
            dialect,
            allow_unknown_static_fields: allow,
            allow_unsupported: allow,
            strict: false,
            elsewhere: true,
            overlays: &[],
            extensions: &NoExtensions,
            build: None,
        };
        match load(data, name, &options) {
            Ok(loaded) => {
                assert!(!loaded.warnings.is_fatal());
                assert!(loaded.bootstrap.listeners.iter().all(|listener| !listener.addresses.is_empty()));
                assert!(loaded.bootstrap == loaded.bootstrap.clone(), "a model equals itself");
            }
            Err(errors) => {
                assert!(errors.is_fatal() && errors.0.iter().all(|error| !error.reason.is_empty()), "{errors}");
                assert!(!render(&errors, name, data).is_empty());
            }
        }
    }
}
