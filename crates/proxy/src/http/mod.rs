//! stub
use crate::{context::WorkerContext, downstream::Downstream};
use sota_config::ConfigErrors;
use sota_plugin::FactoryContext;
use std::{rc::Rc, sync::Arc};
pub struct HttpConnectionManagerConfig;
impl HttpConnectionManagerConfig {
    pub fn build(
        _: &Arc<sota_config::http::HttpConnectionManager>,
        _: &FactoryContext<'_>,
    ) -> Result<Arc<Self>, ConfigErrors> {
        Ok(Arc::new(Self))
    }
}
pub struct HttpConnectionManager;
impl HttpConnectionManager {
    pub fn for_worker(_: &Arc<HttpConnectionManagerConfig>, _: &Rc<WorkerContext>) -> Rc<Self> {
        Rc::new(Self)
    }
    pub async fn serve(self: Rc<Self>, _d: Downstream) {}
}
