//! The PROXY header that a connection to a host begins with (the transport socket `upstream_proxy_protocol`).

use crate::socket::{Io, Socket};
use sota_codec::proxy_protocol::{Addresses, Command, Tlv, Transport, encode_v1, encode_v2};
use sota_config::tls::UpstreamProxyProtocol;
use sota_plugin::info::{ConnectionInfo, PeerAddress};
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Context, Poll, ready},
};

/// What is told of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToldClient {
    source: PeerAddress,
    destination: PeerAddress,
    tlvs: Box<[(u8, Box<[u8]>)]>,
}

impl ToldClient {
    /// The client of this connection, with what the PROXY protocol has brought of it.
    pub(crate) fn of(connection: &ConnectionInfo) -> Self {
        Self {
            source: connection.remote.clone(),
            destination: connection.local.clone(),
            tlvs: connection.proxy_tlvs.iter().map(|tlv| (tlv.kind, tlv.value.clone())).collect(),
        }
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.source.socket_address()?, self.destination.socket_address()?))
    }
}

/// Writes the header. Without a client, as for a health check, the connection is our own.
pub(crate) async fn write(io: &mut Io, model: &UpstreamProxyProtocol, client: Option<&ToldClient>) -> io::Result<()> {
    let header = header(model, client, || own_addresses(io));
    send(&header, |cx, rest| io.poll_write(cx, rest)).await
}

/// The same on a connection that is there already.
pub(crate) async fn write_on(socket: &Socket, model: &UpstreamProxyProtocol, client: &ToldClient) -> io::Result<()> {
    let header = header(model, Some(client), || None);
    send(&header, |cx, rest| socket.poll_write(cx, rest)).await
}

async fn send(
    header: &[u8],
    mut poll_write: impl FnMut(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
) -> io::Result<()> {
    let mut written = 0;
    poll_fn(|cx| {
        while let Some(rest) = header.get(written..).filter(|rest| !rest.is_empty()) {
            match ready!(poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero))),
                n => written += n,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn header(
    model: &UpstreamProxyProtocol,
    client: Option<&ToldClient>,
    own: impl FnOnce() -> Option<(SocketAddr, SocketAddr)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let addresses = client.and_then(ToldClient::addresses);
    if !model.is_v2 {
        // Compat: version 1 cannot say that a connection is our own, so it tells our own addresses.
        encode_v1(addresses.or_else(own), &mut out);
        return out;
    }
    let Some(client) = client else {
        // It has no address that could be wrong.
        let _ = encode_v2(&Command::Local, &[], &mut out);
        return out;
    };
    let told = match addresses {
        Some((source, destination)) => Addresses::Ip { source, destination, transport: Transport::Stream },
        None => Addresses::Unspecified,
    };
    let command = Command::Proxy(told);
    if encode_v2(&command, &tlvs(model, client), &mut out).is_err() {
        tracing::warn!(target: "upstream", "the values for the PROXY header are too long: they are left out");
        let _ = encode_v2(&command, &[], &mut out);
    }
    out
}

/// Those of the configuration first; of a type that is there already nothing is passed on, as with Envoy.
fn tlvs(model: &UpstreamProxyProtocol, client: &ToldClient) -> Vec<Tlv> {
    let mut all: Vec<Tlv> =
        model.added_tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value: value.clone() }).collect();
    let added = all.len();
    for (kind, value) in &client.tlvs {
        let is_wanted = model.pass_through_tlvs.as_ref().is_none_or(|kinds| kinds.contains(kind));
        let is_added = all.get(..added).unwrap_or_default().iter().any(|tlv| tlv.kind == *kind);
        if is_wanted && !is_added {
            all.push(Tlv { kind: *kind, value: value.clone() });
        }
    }
    all
}

fn own_addresses(io: &Io) -> Option<(SocketAddr, SocketAddr)> {
    let Io::Tcp(stream) = io.transport() else { return None };
    Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_configured_go_before_those_of_the_client() {
        let address = |text: &str| PeerAddress::from(text.parse::<SocketAddr>().unwrap());
        let value = |text: &str| -> Box<[u8]> { text.as_bytes().into() };
        let client = ToldClient {
            source: address("10.0.0.1:1"),
            destination: address("10.0.0.2:2"),
            tlvs: Box::new([(1, value("a")), (5, value("b")), (6, value("c")), (6, value("d"))]),
        };
        let told = |pass: Option<Vec<u8>>| {
            let model =
                UpstreamProxyProtocol { is_v2: true, pass_through_tlvs: pass, added_tlvs: vec![(5, value("own"))] };
            tlvs(&model, &client).into_iter().map(|tlv| (tlv.kind, tlv.value.to_vec())).collect::<Vec<_>>()
        };
        let own = (5, b"own".to_vec());
        assert_eq!(told(Some(Vec::new())), std::slice::from_ref(&own));
        assert_eq!(told(Some(vec![6])), [own.clone(), (6, b"c".to_vec()), (6, b"d".to_vec())]);
        assert_eq!(told(None).len(), 4);
    }
}
