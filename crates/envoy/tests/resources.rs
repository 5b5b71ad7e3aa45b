//! Single resources, as a control plane brings them.

use sota_config::{TypedConfig, listener::NetworkFilterKind};
use sota_envoy::{
    CheckOptions, TranslateOptions, check, check_wire, parse_text, translate_cluster, translate_listener,
    translate_route_configuration,
};

const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const LISTENER: &str = "envoy.config.listener.v3.Listener";

const DYNAMIC: CheckOptions<'static> = CheckOptions {
    static_config: false,
    allow_unknown_fields: false,
    allow_unsupported: false,
    relaxed: false,
    claims: &|url| url.starts_with("type.example.com/"),
};
const OPTIONS: TranslateOptions<'static> = TranslateOptions {
    clusters: Some(&|name| name == "known"),
    tracer: None,
    static_config: false,
    strict: false,
    elsewhere: false,
};

fn checked(text: &str, message: &str) -> sota_config::Node {
    let (node, errors) = check(&parse_text(text.as_bytes()).expect("YAML"), message, &DYNAMIC);
    assert!(!errors.is_fatal(), "{errors}");
    node
}

#[test]
fn routes_are_checked_against_clusters_where_they_say_so() {
    let text =
        "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: x}}]}]}";
    let node = checked(text, ROUTES);
    let (routes, warnings) =
        translate_route_configuration(&node, &OPTIONS).expect("no check without validate_clusters");
    assert_eq!((routes.name.as_str(), warnings.0.len()), ("r", 0));
    let node = checked(&text.replace("name: r,", "name: r, validate_clusters: true,"), ROUTES);
    let errors = translate_route_configuration(&node, &OPTIONS).expect_err("an unknown cluster");
    assert_eq!(errors.0[0].reason, "a route of virtual host \"v\": unknown cluster \"x\"");
    let node =
        checked(&text.replace("cluster: x", "cluster: known").replace("name: r,", "validate_clusters: true,"), ROUTES);
    assert!(translate_route_configuration(&node, &OPTIONS).is_ok());
}

#[test]
fn equal_resources_are_equal_models() {
    let text = "{name: c, connect_timeout: 1s, lb_policy: RANDOM}";
    let other = "{\"lbPolicy\": 3, \"name\": \"c\", \"connectTimeout\": \"1.0s\"}";
    let make =
        |text| translate_cluster(&checked(text, "envoy.config.cluster.v3.Cluster"), &OPTIONS).expect("a cluster").0;
    assert_eq!(make(text), make(other));
}

#[test]
fn an_extension_s_own_message_stays_bytes() {
    let field = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).expect("short")], inner].concat();
    let any = [field(0x0a, b"type.example.com/example.Own"), field(0x12, &[1, 2, 3])].concat();
    // Listener.address.pipe.path, and Listener.filter_chains.filters with name and typed_config.
    let address = field(0x12, &field(0x12, &field(0x0a, b"/x")));
    let filter = [field(0x0a, b"f"), field(0x22, &any)].concat();
    let chain = field(0x1a, &field(0x1a, &filter));
    let (node, errors) = check_wire(&[address, chain].concat(), LISTENER, &DYNAMIC);
    assert!(!errors.is_fatal(), "{errors}");
    let (listener, _) = translate_listener(&node, &OPTIONS).expect("a listener");
    let NetworkFilterKind::Extension(extension) = &listener.filter_chains[0].filters[0].kind else {
        panic!("{listener:#?}");
    };
    let TypedConfig::Proto { type_url, bytes } = &extension.config else { panic!("{extension:#?}") };
    assert_eq!((type_url.as_str(), &bytes[..]), ("type.example.com/example.Own", &[1u8, 2, 3][..]));
}
