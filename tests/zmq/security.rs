//! Who gets in, and how we get in elsewhere.

use super::{Mesh, mesh, need_pyzmq};

/// The keys in the manual of zmq_curve.
const CLIENT_PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
const CLIENT_SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";
const SERVER_PUBLIC: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
const SERVER_SECRET: &str = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6";

#[test]
fn plain_users() {
    need_pyzmq!();
    mesh(1, "security: {plain: {users: [{username: me, password: {inline_string: secret}}]}},", 0, "plain");
}

#[test]
fn curve_keys() {
    need_pyzmq!();
    let fields = format!(
        "security: {{curve: {{secret_key: {{inline_string: \"{SERVER_SECRET}\"}}, allowed_clients: [\"{CLIENT_PUBLIC}\"]}}}},"
    );
    mesh(1, &fields, 0, "curve");
}

#[test]
fn curve_from_end_to_end() {
    need_pyzmq!();
    mesh(1, "passthrough_cluster: workers, max_handshakes_per_address: 1,", 1, "curve_passthrough");
}

#[test]
fn workers_want_to_know_who_we_are() {
    need_pyzmq!();
    let plain = "{plain: {username: mesh, password: {inline_string: secret}}}";
    let curve =
        format!("{{curve: {{secret_key: {{inline_string: \"{CLIENT_SECRET}\"}}, server_key: \"{SERVER_PUBLIC}\"}}}}");
    for (mechanism, security) in [("plain", plain), ("curve", &curve)] {
        let fields = format!("routes: [{{cluster: workers}}], upstream: {{security: {security}}},");
        Mesh::start(1, &fields, 1).run("upstream_secured", &[mechanism]);
    }
}
