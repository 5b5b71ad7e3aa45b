//! `envoy.filters.listener.original_dst`: the destination that a redirected connection had before the system's packet
//! filter changed it.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{ListenerCx, ListenerFilter, ListenerFilterConfig, Peek},
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn ListenerFilterConfig> = Extension {
    name: "envoy.filters.listener.original_dst",
    short_name: "original_dst",
    type_urls: &["envoy.extensions.filters.listener.original_dst.v3.OriginalDst"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn ListenerFilterConfig>, ConfigError> {
    Ok(Arc::new(OriginalDst))
}

#[derive(Clone, Copy)]
struct OriginalDst;

impl ListenerFilterConfig for OriginalDst {
    fn for_worker(&self, _: &WorkerCx) -> Rc<dyn Fn() -> Box<dyn ListenerFilter>> {
        Rc::new(|| Box::new(Self))
    }
}

impl ListenerFilter for OriginalDst {
    fn on_peek(&mut self, _bytes: &[u8], _end: bool, cx: &mut ListenerCx<'_>) -> Peek {
        if let Some(original) = (cx.original_destination)() {
            cx.info.restore_local(original.into());
        }
        Peek::Continue
    }

    fn max_bytes(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::connection;

    #[test]
    fn restores_the_destination_where_there_is_one() {
        let mut info = connection();
        let before = info.local.clone();
        let mut cx = ListenerCx { info: &mut info, original_destination: &|| None };
        assert_eq!(OriginalDst.on_peek(b"", false, &mut cx), Peek::Continue);
        assert_eq!((&cx.info.local, cx.info.local_restored), (&before, false));
        let original = "[2001:db8::1]:443".parse().unwrap();
        let restored = move || Some(original);
        cx.original_destination = &restored;
        assert_eq!(OriginalDst.on_peek(b"", false, &mut cx), Peek::Continue);
        assert_eq!((cx.info.local.socket_address(), cx.info.local_restored), (Some(original), true));
        assert_eq!(*cx.info.direct_local(), before);
    }
}
