//! Secrets by name: what configuration, files and control planes give, for those who need it.
//!
//! Who uses a secret looks it up while it is built, keeps the [`SecretSlot`], and registers as a [`SecretUser`]: it is told
//! to look again when something may have changed. All of that runs on the main thread or on one that builds; workers see
//! what users make of it.

use crate::file_version::FileVersion;
use sota_config::secret::{Secret, SecretRef, SecretSource};
use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

/// Reads the secrets of a file in the form in which a control plane would send them.
pub type ReadSecrets = dyn Fn(&Path) -> Result<Vec<Secret>, String> + Send + Sync;

/// What is built from secrets.
pub trait SecretUser: Send + Sync {
    /// Looks whether something that it was built from has changed, and takes it over.
    fn refresh(&self) -> Refreshed;

    /// Whether it was built from this secret.
    fn uses(&self, slot: &Arc<SecretSlot>) -> bool;
}

/// What came of looking for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// There were none.
    Unchanged,
    /// They count from now on.
    Updated,
    /// They cannot be used, and why; what was there stays.
    Rejected(String),
}

/// How many did what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refresh {
    /// Users that took something over.
    pub updated: u64,
    /// Users and files that could not.
    pub rejected: u64,
    /// Why users could not.
    pub reasons: Vec<String>,
}

/// The place of a secret; its value comes and changes.
#[derive(Debug, Default)]
pub struct SecretSlot {
    value: RwLock<Option<Arc<Secret>>>,
}

impl SecretSlot {
    /// The secret, once it is known.
    pub fn get(&self) -> Option<Arc<Secret>> {
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, secret: Option<&Arc<Secret>>) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = secret.cloned();
    }
}

/// All secrets of the process.
pub struct Secrets {
    read: Box<ReadSecrets>,
    missing: Option<Box<dyn Fn(String) + Send + Sync>>,
    state: Mutex<State>,
    /// Held while users look for changes: who brings a secret must see what becomes of it.
    refreshing: Mutex<()>,
}

#[derive(Default)]
struct State {
    named: HashMap<String, Arc<SecretSlot>>,
    files: HashMap<PathBuf, SecretFile>,
    /// Those that a control plane brings.
    discovered: HashMap<SecretRef, Arc<SecretSlot>>,
    users: Vec<Weak<dyn SecretUser>>,
}

/// A file with secrets that somebody uses.
#[derive(Default)]
struct SecretFile {
    read: Option<FileVersion>,
    slots: HashMap<String, Arc<SecretSlot>>,
}

impl Default for Secrets {
    /// None, and no way to read files.
    fn default() -> Self {
        Self::new(|_| Err("files with secrets cannot be read here".to_owned()))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// No secrets yet; `read` reads files.
    pub fn new(read: impl Fn(&Path) -> Result<Vec<Secret>, String> + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read), missing: None, state: Mutex::default(), refreshing: Mutex::default() }
    }

    /// The same for a configuration of another host: a file that is not on this one leaves the places of its secrets empty,
    /// and `missing` is told why.
    #[must_use]
    pub fn elsewhere(self, missing: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { missing: Some(Box::new(missing)), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a secret. Fails when it is not there and nobody will bring it; that of a secret which a control plane
    /// brings may be empty still.
    pub fn find(&self, wanted: &SecretRef) -> Result<Arc<SecretSlot>, String> {
        match &wanted.source {
            SecretSource::Named => {
                let slot = self.lock().named.get(&wanted.name).filter(|slot| slot.get().is_some()).cloned();
                slot.ok_or_else(|| format!("there is no secret \"{}\"", wanted.name.escape_debug()))
            }
            SecretSource::File(path) => self.find_in_file(path, &wanted.name),
            SecretSource::Discovered(_) => Ok(Arc::clone(self.lock().discovered.entry(wanted.clone()).or_default())),
        }
    }

    fn find_in_file(&self, path: &Path, name: &str) -> Result<Arc<SecretSlot>, String> {
        if let Some(slot) = self.lock().files.get(path).and_then(|file| file.slots.get(name)) {
            return Ok(Arc::clone(slot));
        }
        if let Some(missing) = self.missing.as_ref().filter(|_| !path.exists()) {
            missing(format!("the file \"{}\" is not there on this host", path.display().to_string().escape_debug()));
            return Ok(Arc::default());
        }
        let version = FileVersion::of(path);
        let secret = (self.read)(path)?.into_iter().find(|secret| secret.name == name).ok_or_else(|| {
            format!(
                "there is no secret \"{}\" in \"{}\"",
                name.escape_debug(),
                path.display().to_string().escape_debug()
            )
        })?;
        let slot = Arc::<SecretSlot>::default();
        slot.set(Some(&Arc::new(secret)));
        let mut state = self.lock();
        let file = state.files.entry(path.to_owned()).or_default();
        file.read = file.read.or(version);
        Ok(Arc::clone(file.slots.entry(name.to_owned()).or_insert(slot)))
    }

    /// Sets or takes away the secret of this name. Users see it at the next [refresh](Self::refresh).
    pub fn set(&self, name: &str, secret: Option<&Arc<Secret>>) {
        self.lock().named.entry(name.to_owned()).or_default().set(secret);
    }

    /// The secrets that somebody wants a control plane to bring, and whether each has come. Others are forgotten.
    pub fn discovered(&self) -> Vec<(SecretRef, bool)> {
        let mut state = self.lock();
        state.discovered.retain(|_, slot| Arc::strong_count(slot) > 1);
        state.discovered.iter().map(|(wanted, slot)| (wanted.clone(), slot.get().is_some())).collect()
    }

    /// Takes over a secret that a control plane has brought under these names. When a user cannot use it all users keep
    /// what they had, and the error says why. Reads and parses certificates: not for threads that must not wait.
    pub fn bring(&self, wanted: &[SecretRef], secret: &Arc<Secret>) -> Result<(), String> {
        let _refreshing = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<_> = {
            let state = self.lock();
            wanted.iter().filter_map(|wanted| state.discovered.get(wanted).cloned()).collect()
        };
        let before: Vec<_> = slots.iter().map(|slot| slot.get()).collect();
        slots.iter().for_each(|slot| slot.set(Some(secret)));
        let users: Vec<_> = self.lock().users.iter().filter_map(Weak::upgrade).collect();
        let uses = |user: &&Arc<dyn SecretUser>| slots.iter().any(|slot| user.uses(slot));
        for user in users.iter().filter(uses) {
            if let Refreshed::Rejected(reason) = user.refresh() {
                slots.iter().zip(&before).for_each(|(slot, before)| slot.set(before.as_ref()));
                for user in users.iter().filter(uses) {
                    user.refresh();
                }
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Replaces all secrets that are set by name.
    pub fn replace_named(&self, secrets: &[Arc<Secret>]) {
        let mut state = self.lock();
        for slot in state.named.values() {
            slot.set(None);
        }
        for secret in secrets {
            state.named.entry(secret.name.clone()).or_default().set(Some(secret));
        }
        state.named.retain(|_, slot| slot.get().is_some() || Arc::strong_count(slot) > 1);
    }

    /// Registers a user, for as long as it lives.
    pub fn register(&self, user: &Arc<dyn SecretUser>) {
        self.lock().users.push(Arc::downgrade(user));
    }

    /// Reads files again that have changed, and lets all users look for changes.
    pub fn refresh(&self) -> Refresh {
        // While a secret is brought: at the next time.
        let Ok(_refreshing) = self.refreshing.try_lock() else { return Refresh::default() };
        let mut outcome = Refresh { rejected: self.read_changed_files(), ..Refresh::default() };
        let users: Vec<_> = {
            let mut state = self.lock();
            state.users.retain(|user| user.strong_count() > 0);
            state.users.iter().filter_map(Weak::upgrade).collect()
        };
        for user in users {
            match user.refresh() {
                Refreshed::Unchanged => {}
                Refreshed::Updated => outcome.updated += 1,
                Refreshed::Rejected(reason) => {
                    outcome.rejected += 1;
                    outcome.reasons.push(reason);
                }
            }
        }
        outcome
    }

    /// How many of them cannot be read.
    fn read_changed_files(&self) -> u64 {
        let mut rejected = 0;
        let changed: Vec<_> = {
            let mut state = self.lock();
            // Who has a slot beside this table uses it.
            state.files.retain(|_, file| {
                file.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
                !file.slots.is_empty()
            });
            let version = |path: &PathBuf| FileVersion::of(path);
            let changed = state.files.iter().map(|(path, file)| (path.clone(), version(path), file.read));
            changed.filter(|(_, now, read)| now.is_some() && now != read).map(|(path, now, _)| (path, now)).collect()
        };
        for (path, version) in changed {
            let secrets = (self.read)(&path);
            let mut state = self.lock();
            let Some(file) = state.files.get_mut(&path) else { continue };
            file.read = version;
            match secrets {
                Ok(secrets) => {
                    for secret in secrets {
                        if let Some(slot) = file.slots.get(&secret.name) {
                            slot.set(Some(&Arc::new(secret)));
                        }
                    }
                }
                Err(_) => rejected += 1,
            }
        }
        rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::{
        config_source::{ConfigSource, SourceKind},
        secret::{DataSource, SecretKind},
    };
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering},
    };

    struct Counts(AtomicUsize);

    impl SecretUser for Counts {
        fn refresh(&self) -> Refreshed {
            self.0.fetch_add(1, Ordering::Relaxed);
            Refreshed::Updated
        }

        fn uses(&self, _: &Arc<SecretSlot>) -> bool {
            true
        }
    }

    fn secret(name: &str) -> Secret {
        Secret { name: name.to_owned(), kind: SecretKind::TicketKeys(Vec::new()) }
    }

    #[test]
    fn a_file_that_cannot_be_read_leaves_the_old_secrets() {
        let directory = std::env::temp_dir().join(format!("sota-secrets-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("sds.yaml");
        fs::write(&path, "a").unwrap();
        let secrets = Secrets::new(|path| match fs::read_to_string(path).as_deref() {
            Ok("a" | "abc") => Ok(vec![secret("one")]),
            _ => Err("broken".to_owned()),
        });
        let wanted = |name: &str| SecretRef { name: name.to_owned(), source: SecretSource::File(path.clone()) };
        let slot = secrets.find(&wanted("one")).unwrap();
        assert!(secrets.find(&wanted("two")).unwrap_err().contains("no secret \"two\""));
        let first = slot.get().unwrap();
        fs::write(&path, "ab").unwrap();
        assert_eq!(secrets.refresh().rejected, 1);
        assert!(Arc::ptr_eq(&slot.get().unwrap(), &first));
        fs::write(&path, "abc").unwrap();
        secrets.refresh();
        assert!(!Arc::ptr_eq(&slot.get().unwrap(), &first));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn users_are_told_while_they_live() {
        let secrets = Secrets::default();
        let user = Arc::new(Counts(AtomicUsize::new(0)));
        let shared: Arc<dyn SecretUser> = Arc::clone(&user) as _;
        secrets.register(&shared);
        assert_eq!(secrets.refresh().updated, 1);
        drop(shared);
        secrets.refresh();
        assert_eq!(user.0.load(Ordering::Relaxed), 2);
        drop(user);
        secrets.refresh();
        assert!(secrets.lock().users.is_empty());
        let wanted = SecretRef { name: "a".to_owned(), source: SecretSource::Named };
        assert!(secrets.find(&wanted).is_err());
        secrets.replace_named(&[Arc::new(secret("a"))]);
        assert_eq!(secrets.find(&wanted).unwrap().get().unwrap().name, "a");
    }

    /// Cannot use keys: a secret of one is bad.
    struct Picky(Arc<SecretSlot>);

    impl SecretUser for Picky {
        fn refresh(&self) -> Refreshed {
            match self.0.get().map(|secret| secret.kind.clone()) {
                Some(SecretKind::TicketKeys(keys)) if !keys.is_empty() => Refreshed::Rejected("keys".to_owned()),
                _ => Refreshed::Updated,
            }
        }

        fn uses(&self, slot: &Arc<SecretSlot>) -> bool {
            Arc::ptr_eq(&self.0, slot)
        }
    }

    #[test]
    fn a_brought_secret_that_a_user_refuses_leaves_the_old_one() {
        let secrets = Secrets::default();
        let source = ConfigSource { kind: SourceKind::Ads, initial_fetch_timeout: None };
        let wanted = SecretRef { name: "a".to_owned(), source: SecretSource::Discovered(source) };
        let user: Arc<dyn SecretUser> = Arc::new(Picky(secrets.find(&wanted).unwrap()));
        secrets.register(&user);
        assert_eq!(secrets.discovered(), [(wanted.clone(), false)]);
        let good = Arc::new(secret("a"));
        secrets.bring(std::slice::from_ref(&wanted), &good).unwrap();
        assert_eq!(secrets.discovered(), [(wanted.clone(), true)]);
        let kind = SecretKind::TicketKeys(vec![DataSource::Inline(Vec::new())]);
        let bad = Arc::new(Secret { name: "a".to_owned(), kind });
        assert_eq!(secrets.bring(std::slice::from_ref(&wanted), &bad), Err("keys".to_owned()));
        assert!(Arc::ptr_eq(&secrets.find(&wanted).unwrap().get().unwrap(), &good));
        drop(user);
        secrets.refresh();
        assert!(secrets.discovered().is_empty());
    }
}
