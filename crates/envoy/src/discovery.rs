//! Messages between a proxy and its control plane (`envoy.service.discovery.v3`): requests to bytes, responses from
//! bytes or from a file.
//!
//! A resource stays what it came as until somebody builds it: a response with 10,000 resources is split without a copy,
//! and one that is known already is never read.

use crate::{
    check::{CheckOptions, TYPE_KEY, check, check_wire, type_name},
    parse_text,
    wire::{RawValue, Reader, put_bytes},
};
use bytes::Bytes;
use sota_config::{ConfigError, ConfigErrors, Mark, Node, Value};
use std::hash::{DefaultHasher, Hash, Hasher};

const TYPE_URL_PREFIX: &str = "type.googleapis.com/";
/// The wrapper of resources in the state of the world, and their form in deltas.
const WRAPPER: &str = "envoy.service.discovery.v3.Resource";

/// What a proxy says. Both kinds of discovery have their own message; the fields of the other are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The node as bytes; `None`: it was sent on this stream before.
    pub node: Option<Bytes>,
    /// The type of the resources, by its full name.
    pub message: &'static str,
    /// State of the world: the version that is in force.
    pub version: String,
    /// State of the world: all names that are wanted; delta: those that are wanted from now on.
    pub names: Vec<String>,
    /// Delta: names that are not wanted any more.
    pub unsubscribe: Vec<String>,
    /// Delta, first request of a stream: resources that are there, with their versions.
    pub initial_versions: Vec<(String, String)>,
    /// The response that is answered.
    pub nonce: String,
    /// Why it is refused, if it is.
    pub error: Option<String>,
}

impl Request {
    /// As a `DiscoveryRequest`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, 1, &self.version);
        self.put_node(&mut out, 2);
        self.names.iter().for_each(|name| put_bytes(&mut out, 3, name.as_bytes()));
        self.put_type(&mut out, 4);
        put_text(&mut out, 5, &self.nonce);
        self.put_error(&mut out, 6);
        out
    }

    /// As a `DeltaDiscoveryRequest`.
    pub fn encode_delta(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_node(&mut out, 1);
        self.put_type(&mut out, 2);
        self.names.iter().for_each(|name| put_bytes(&mut out, 3, name.as_bytes()));
        self.unsubscribe.iter().for_each(|name| put_bytes(&mut out, 4, name.as_bytes()));
        for (name, version) in &self.initial_versions {
            let mut entry = Vec::new();
            put_text(&mut entry, 1, name);
            put_text(&mut entry, 2, version);
            put_bytes(&mut out, 5, &entry);
        }
        put_text(&mut out, 6, &self.nonce);
        self.put_error(&mut out, 7);
        out
    }

    fn put_node(&self, out: &mut Vec<u8>, number: u32) {
        if let Some(node) = &self.node {
            put_bytes(out, number, node);
        }
    }

    fn put_type(&self, out: &mut Vec<u8>, number: u32) {
        put_bytes(out, number, format!("{TYPE_URL_PREFIX}{}", self.message).as_bytes());
    }

    /// A `google.rpc.Status` of the code INVALID_ARGUMENT, as Envoy has it.
    fn put_error(&self, out: &mut Vec<u8>, number: u32) {
        if let Some(error) = &self.error {
            let mut status = vec![1 << 3, 3];
            put_text(&mut status, 2, error);
            put_bytes(out, number, &status);
        }
    }
}

fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

/// What a control plane says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Response {
    /// The type of the resources, by its full name.
    pub message: String,
    /// The version of the whole.
    pub version: String,
    /// What the answer refers to.
    pub nonce: String,
    /// Who sent it, in its own words.
    pub control_plane: String,
    /// The resources.
    pub resources: Vec<Resource>,
    /// Delta: resources that are no more.
    pub removed: Vec<String>,
}

/// A resource as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name, as far as the message around it says it.
    pub name: String,
    /// Its version; that of the response where it has none.
    pub version: String,
    /// Its type, by its full name.
    pub message: String,
    body: Body,
}

#[derive(Debug, Clone, PartialEq)]
enum Body {
    Wire(Bytes),
    Tree(Node),
    /// A heartbeat: the resource is as it was.
    None,
}

impl Response {
    /// Reads a `DiscoveryResponse`.
    pub fn decode(bytes: &Bytes) -> Result<Self, ConfigError> {
        let mut response = Self::default();
        let mut resources = Vec::new();
        for field in fields(bytes) {
            match field? {
                (1, Some(value)) => response.version = text(value)?,
                (2, Some(value)) => resources.push(bytes.slice_ref(value)),
                (4, Some(value)) => response.message = type_name(&text(value)?).to_owned(),
                (5, Some(value)) => response.nonce = text(value)?,
                (6, Some(value)) => response.control_plane = first_text(value)?,
                _ => {}
            }
        }
        for any in resources {
            let resource = Resource::from_any(&any, &response.version)?;
            response.resources.push(resource);
        }
        Ok(response)
    }

    /// Reads a `DeltaDiscoveryResponse`.
    pub fn decode_delta(bytes: &Bytes) -> Result<Self, ConfigError> {
        let mut response = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Some(value)) => response.version = text(value)?,
                (2, Some(value)) => response.resources.push(Resource::decode(&bytes.slice_ref(value), "")?),
                (4, Some(value)) => response.message = type_name(&text(value)?).to_owned(),
                (5, Some(value)) => response.nonce = text(value)?,
                (6, Some(value)) => response.removed.push(text(value)?),
                (7, Some(value)) => response.control_plane = first_text(value)?,
                _ => {}
            }
        }
        Ok(response)
    }

    /// As a `DeltaDiscoveryResponse`.
    pub fn encode_delta(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, 1, &self.version);
        for resource in &self.resources {
            put_bytes(&mut out, 2, &resource.encode());
        }
        put_bytes(&mut out, 4, format!("{TYPE_URL_PREFIX}{}", self.message).as_bytes());
        put_text(&mut out, 5, &self.nonce);
        self.removed.iter().for_each(|name| put_bytes(&mut out, 6, name.as_bytes()));
        if !self.control_plane.is_empty() {
            let mut identifier = Vec::new();
            put_text(&mut identifier, 1, &self.control_plane);
            put_bytes(&mut out, 7, &identifier);
        }
        out
    }

    /// Reads a file with a `DiscoveryResponse`: YAML or JSON, or protobuf bytes when its name ends in `.pb`.
    pub fn read_file(bytes: &[u8], file_name: &str) -> Result<Self, ConfigErrors> {
        if file_name.ends_with(".pb") {
            return Ok(Self::decode(&Bytes::copy_from_slice(bytes))?);
        }
        let document = parse_text(bytes)?;
        let version = document.str("version_info").to_owned();
        let mut response = Self { version, ..Self::default() };
        for (key, value) in document.pairs() {
            let known = ["version_info", "resources", "type_url", "nonce", "canary", "control_plane"];
            if !known.contains(&&**key) {
                return Err(ConfigError::new(&**key, value.mark, "a discovery response has no such field").into());
            }
        }
        for (number, any) in document.list("resources").iter().enumerate() {
            let resource = Resource::from_tree(any, &response.version)
                .map_err(|error| error.at(&format!("resources[{number}]"), any.mark))?;
            response.message.clone_from(&resource.message);
            response.resources.push(resource);
        }
        if document.has("type_url") {
            response.message = type_name(document.str("type_url")).to_owned();
        }
        Ok(response)
    }
}

impl Resource {
    /// An `Any` with a resource, or with one in its wrapper.
    fn from_any(any: &Bytes, version: &str) -> Result<Self, ConfigError> {
        let (message, value) = any_parts(any)?;
        if message == WRAPPER {
            return Self::decode(&value, version);
        }
        Ok(Self { name: String::new(), version: version.to_owned(), message, body: Body::Wire(value) })
    }

    /// A `Resource`. Without a resource in it, it is a heartbeat.
    fn decode(bytes: &Bytes, default_version: &str) -> Result<Self, ConfigError> {
        let (mut name, mut version, mut inner) = (String::new(), default_version.to_owned(), None);
        for field in fields(bytes) {
            match field? {
                (1, Some(value)) => version = text(value)?,
                (2, Some(value)) => inner = Some(bytes.slice_ref(value)),
                (3, Some(value)) => name = text(value)?,
                _ => {}
            }
        }
        match inner {
            // A wrapper in a wrapper is none of the protocol; it is refused where its type is looked at.
            Some(any) if !any.is_empty() => {
                let (message, value) = any_parts(&any)?;
                Ok(Self { name, version, message, body: Body::Wire(value) })
            }
            _ => Ok(Self { name, version, message: String::new(), body: Body::None }),
        }
    }

    fn from_tree(any: &Node, version: &str) -> Result<Self, ConfigError> {
        let Some(url) = any.get(TYPE_KEY).and_then(Node::as_str) else {
            return Err(ConfigError::new("", any.mark, format!("\"{TYPE_KEY}\" is missing")));
        };
        if type_name(url) == WRAPPER {
            let inner = Self::from_tree(any.field("resource"), version)?;
            let version = if any.has("version") { any.str("version") } else { version };
            return Ok(Self { name: any.str("name").to_owned(), version: version.to_owned(), ..inner });
        }
        let entries = any.pairs().iter().filter(|(key, _)| &**key != TYPE_KEY).cloned().collect();
        let body = Body::Tree(Node { value: Value::Map(entries), mark: any.mark });
        Ok(Self { name: String::new(), version: version.to_owned(), message: type_name(url).to_owned(), body })
    }

    /// As a `Resource`; one that cannot be said in bytes is left empty.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, 1, &self.version);
        let value = match &self.body {
            Body::Wire(bytes) => Some(bytes.clone()),
            Body::Tree(node) => crate::wire::encode(node, &self.message).ok().map(Bytes::from),
            Body::None => None,
        };
        if let Some(value) = value {
            let mut any = Vec::new();
            put_bytes(&mut any, 1, format!("{TYPE_URL_PREFIX}{}", self.message).as_bytes());
            put_bytes(&mut any, 2, &value);
            put_bytes(&mut out, 2, &any);
        }
        put_text(&mut out, 3, &self.name);
        out
    }

    /// Whether it says only that the resource is as it was.
    pub fn is_heartbeat(&self) -> bool {
        matches!(self.body, Body::None)
    }

    /// The same for the same content; not kept beyond the process.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.body {
            Body::Wire(bytes) => bytes.hash(&mut hasher),
            // The tree's text has all that it holds.
            Body::Tree(node) => format!("{:?}", node.value).hash(&mut hasher),
            Body::None => {}
        }
        hasher.finish()
    }

    /// Checks it along the message table; the findings stand beside the tree.
    pub fn check(&self, options: &CheckOptions<'_>) -> (Node, ConfigErrors) {
        match &self.body {
            Body::Wire(bytes) => check_wire(bytes, &self.message, options),
            Body::Tree(node) => check(node, &self.message, options),
            Body::None => (Node::map(), ConfigError::new("", Mark::NONE, "there is no resource").into()),
        }
    }

    /// The value of a text field that names it, such as field 1 of a cluster, without reading the rest.
    pub fn text_field(&self, number: u32, key: &str) -> String {
        match &self.body {
            Body::Wire(bytes) => {
                let found = fields(bytes).filter_map(Result::ok).filter(|(at, _)| *at == number).last();
                found.and_then(|(_, value)| text(value?).ok()).unwrap_or_default()
            }
            Body::Tree(node) => node.str(key).to_owned(),
            Body::None => String::new(),
        }
    }
}

/// Type and content of an `Any`.
fn any_parts(any: &Bytes) -> Result<(String, Bytes), ConfigError> {
    let (mut message, mut value) = (String::new(), Bytes::new());
    for field in fields(any) {
        match field? {
            (1, Some(url)) => message = type_name(&text(url)?).to_owned(),
            (2, Some(content)) => value = any.slice_ref(content),
            _ => {}
        }
    }
    Ok((message, value))
}

/// Number and octets of each field; `None` for values of other kinds.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Option<&[u8]>), ConfigError>> {
    Reader::new(bytes).map(|field| match field {
        Ok(field) => Ok((field.number, if let RawValue::Bytes(bytes) = field.value { Some(bytes) } else { None })),
        Err(error) => Err(ConfigError::new("", Mark::NONE, error.reason())),
    })
}

fn text(bytes: &[u8]) -> Result<String, ConfigError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ConfigError::new("", Mark::NONE, "a text is not valid UTF-8"))
}

/// Field 1 of a message: the identifier of a control plane.
fn first_text(bytes: &[u8]) -> Result<String, ConfigError> {
    for field in fields(bytes) {
        if let (1, Some(value)) = field? {
            return text(value);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;

    const OPTIONS: CheckOptions<'static> = CheckOptions {
        static_config: false,
        allow_unknown_fields: true,
        allow_unsupported: false,
        relaxed: false,
        claims: &|_| false,
    };

    fn bytes(message: &str, text: &str) -> Bytes {
        let message = format!("envoy.service.discovery.v3.{message}");
        let (node, errors) = check(&parse_text(text.as_bytes()).unwrap(), &message, &OPTIONS);
        assert!(!errors.is_fatal(), "{errors}");
        encode(&node, &message).unwrap().into()
    }

    fn shown(bytes: &[u8], message: &str) -> Node {
        let (node, errors) = check_wire(bytes, &format!("envoy.service.discovery.v3.{message}"), &OPTIONS);
        assert!(!errors.is_fatal(), "{errors}");
        node
    }

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    #[test]
    fn requests_are_what_the_messages_say() {
        let request = Request {
            node: Some(Bytes::from_static(b"\x0a\x01n")),
            message: "envoy.config.cluster.v3.Cluster",
            version: "v".to_owned(),
            names: vec!["a".to_owned(), "b".to_owned()],
            unsubscribe: vec!["c".to_owned()],
            initial_versions: vec![("a".to_owned(), "1".to_owned())],
            nonce: "n1".to_owned(),
            error: Some("no".to_owned()),
        };
        let world = shown(&request.encode(), "DiscoveryRequest");
        assert_eq!(
            (world.field("node").str("id"), world.str("type_url"), world.str("version_info")),
            ("n", CLUSTER, "v")
        );
        assert_eq!((world.strings("resource_names"), world.str("response_nonce")), (request.names.clone(), "n1"));
        assert_eq!(world.field("error_detail").u32("code"), Some(3));
        let delta = shown(&request.encode_delta(), "DeltaDiscoveryRequest");
        assert_eq!((delta.field("node").str("id"), delta.str("type_url")), ("n", CLUSTER));
        assert_eq!(delta.strings("resource_names_subscribe"), request.names);
        assert_eq!(delta.strings("resource_names_unsubscribe"), request.unsubscribe);
        assert_eq!(delta.field("initial_resource_versions").str("a"), "1");
        assert_eq!((delta.str("response_nonce"), delta.field("error_detail").str("message")), ("n1", "no"));
    }

    #[test]
    fn responses_are_read_with_and_without_wrappers() {
        let plain = format!("{{\"@type\": {CLUSTER}, name: a}}");
        let wrapper = "type.googleapis.com/envoy.service.discovery.v3.Resource";
        let text = format!(
            "{{version_info: v, nonce: n1, type_url: {CLUSTER}, control_plane: {{identifier: who}}, resources: [{plain}, \
             {{\"@type\": {wrapper}, name: b, version: '7', resource: {plain}}}]}}"
        );
        let world = Response::decode(&bytes("DiscoveryResponse", &text)).unwrap();
        assert_eq!((&*world.version, &*world.nonce, &*world.control_plane), ("v", "n1", "who"));
        let found: Vec<_> =
            world.resources.iter().map(|of| (&*of.name, &*of.version, of.text_field(1, "name"))).collect();
        assert_eq!(found, [("", "v", "a".to_owned()), ("b", "7", "a".to_owned())]);
        assert_eq!(world.resources[0].fingerprint(), world.resources[1].fingerprint());
        let file = Response::read_file(text.as_bytes(), "x.yaml").unwrap();
        assert_eq!((file.message, file.resources.len()), (world.message, 2));
        let text = format!(
            "{{nonce: n1, type_url: {CLUSTER}, removed_resources: [x], resources: [{{name: a, version: '1', resource: \
             {plain}}}, {{name: b, version: '2'}}]}}"
        );
        let octets = bytes("DeltaDiscoveryResponse", &text);
        let delta = Response::decode_delta(&octets).unwrap();
        assert_eq!((delta.removed, delta.resources[1].is_heartbeat()), (vec!["x".to_owned()], true));
        for end in 0..octets.len() {
            // Half a message is an error or another message, never a panic.
            let _ = Response::decode_delta(&octets.slice(..end)).map(|half| half.resources.len());
            let _ = Response::decode(&octets.slice(..end));
        }
        assert!(Response::read_file(b"resources: [{name: a}]", "x.yaml").is_err());
        assert!(Response::read_file(b"resource: []", "x.yaml").is_err());
    }
}
