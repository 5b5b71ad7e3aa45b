//! stub
pub(crate) fn start(_s: &std::rc::Rc<crate::server::Server>, _m: &sota_config::bootstrap::Admin) -> Result<(), String> { Ok(()) }
