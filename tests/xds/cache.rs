//! `--xds-cache`: a start without the control plane.

use super::*;
use sota_testkit::temp_dir;

fn start_cached(config: String, folder: &Path) -> JoinHandle<ProxyProcess> {
    let folder = folder.display().to_string();
    std::thread::spawn(move || ProxyProcess::start_with(BINARY, &config, &["--xds-cache", &folder]))
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "xds").count()
}

#[test]
fn a_start_without_the_control_plane_serves_what_was_accepted_last() {
    let (one, two) = (answering("one"), answering("two"));
    let (folder, mut plane) = (temp_dir(), Plane::start());
    let config = bootstrap(plane.address, "DELTA_GRPC", "0s", "");
    let starting = start_cached(config.clone(), folder.path());
    plane.asks("Cluster");
    let refused = "{name: bad, type: EDS, lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, \
                   maximum_ring_size: 3}, eds_cluster_config: {eds_config: {ads: {}}}}";
    plane.delta("Cluster", "1", &[("a", &cluster("a")), ("bad", refused)], &[]);
    plane.asks(ENDPOINTS);
    plane.delta(ENDPOINTS, "1", &[("a", &endpoints("a", one.port()))], &[]);
    plane.asks("Listener");
    plane.delta("Listener", "1", &[("l", &with_rds("l", "web", "r"))], &[]);
    plane.asks(ROUTES);
    plane.delta(ROUTES, "1", &[("r", &routes("r", "a"))], &[]);
    let proxy = starting.join().unwrap();
    assert_eq!(body(proxy.listener("l")), "one");
    assert_eq!(proxy.admin("/ready?verbose").text(), "LIVE\n");
    wait_until("all kinds are on disk", LIMIT, || files(folder.path()) == 4);
    let port = plane.address.port();
    drop((proxy, plane));

    // Nobody is there to ask.
    let proxy = start_cached(config.clone(), folder.path()).join().unwrap();
    assert_eq!(body(proxy.listener("l")), "one");
    let ready = proxy.admin("/ready?verbose").text();
    for kind in ["clusters", "endpoints", "listeners", "routes"] {
        assert!(ready.contains(&format!("remembered: {kind} of ads\n")), "{ready}");
    }
    assert!(proxy.log().contains("1 clusters are served as remembered until ads says more"), "{}", proxy.log());
    assert!(proxy.admin("/config_dump").text().contains("\"version_info\": \"1\""));

    // It comes back, is told what is there, and says what has changed.
    let mut plane = Plane::at(port);
    let asked = plane.asks("Cluster");
    assert_eq!(asked.request.field("initial_resource_versions").str("a"), "1");
    let address = proxy.listener("l");
    let mut kept = Client::connect(address);
    assert_eq!(kept.exchange("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text(), "one");
    plane.delta("Cluster", "2", &[("a", &cluster("a"))], &[]);
    plane.answers("Cluster");
    plane.delta(ENDPOINTS, "2", &[("a", &endpoints("a", two.port()))], &[]);
    wait_until("the new endpoints", LIMIT, || body(address) == "two");
    assert_eq!(kept.exchange("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text(), "two", "no connection was closed");
    let ready = proxy.admin("/ready?verbose").text();
    assert!(!ready.contains("clusters") && ready.contains("remembered: listeners of ads\n"), "{ready}");
    drop(proxy);

    // Another node does not take them over.
    drop(plane);
    let other = config
        .replace("id: proxy-1", "id: proxy-2")
        .replace("initial_fetch_timeout: 0s", "initial_fetch_timeout: 0.1s");
    let proxy = start_cached(other, folder.path()).join().unwrap();
    assert!(proxy.log().contains("it is of another node"), "{}", proxy.log());
    assert_eq!(proxy.stat("cluster_manager.active_clusters"), 1);
}

#[test]
fn the_state_of_the_world_is_remembered_and_what_is_awaited_is_told() {
    let one = answering("one");
    let (folder, mut plane) = (temp_dir(), Plane::start());
    let config = bootstrap(plane.address, "GRPC", "0s", "");
    let starting = start_cached(config.clone(), folder.path());
    plane.asks("Cluster");
    plane.world("Cluster", "7", &[&cluster("a")]);
    plane.asks(ENDPOINTS);
    plane.world(ENDPOINTS, "7", &[&endpoints("a", one.port())]);
    plane.asks("Listener");
    plane.world("Listener", "7", &[&listener("l", "web", &format!("route_config: {}", routes("r", "a")))]);
    let proxy = starting.join().unwrap();
    assert_eq!(body(proxy.listener("l")), "one");
    plane.world("Cluster", "8", &[&cluster("a"), &cluster("b")]);
    wait_until("what is awaited", LIMIT, || {
        proxy.admin("/ready?verbose").text().contains("awaited: endpoints b\n")
            && proxy.admin("/init_dump").text().contains("endpoints b")
    });
    plane.world("Cluster", "9", &[&cluster("a")]);
    wait_until("nothing is awaited", LIMIT, || proxy.admin("/ready?verbose").text() == "LIVE\n");
    wait_until("all kinds are on disk", LIMIT, || files(folder.path()) == 3);
    // What was changed last is written a moment later.
    std::thread::sleep(Duration::from_millis(1300));
    let port = plane.address.port();
    drop((proxy, plane));

    let proxy = start_cached(config.replace("initial_fetch_timeout: 0s", "initial_fetch_timeout: 1s"), folder.path());
    let plane = Plane::at(port);
    let asked = plane.asks("Cluster");
    assert_eq!(asked.request.str("version_info"), "", "a version that is only remembered is not claimed");
    let proxy = proxy.join().unwrap();
    assert_eq!(body(proxy.listener("l")), "one");
}

#[test]
fn a_folder_that_cannot_be_is_told_at_the_start() {
    let folder = temp_dir();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let config = folder.path().join("c.yaml");
    fs::write(&config, bootstrap("127.0.0.1:1".parse().unwrap(), "GRPC", "0s", "")).unwrap();
    let done = std::process::Command::new(BINARY)
        .args(["start", "-c"])
        .arg(&config)
        .arg("--xds-cache")
        .arg(file.join("below"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot use --xds-cache"), "{text}");
}
