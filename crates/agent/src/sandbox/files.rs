//! Files, by Landlock: what the runtime's threads may read, and the directories that they may write to.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Lack, Layer, Places};

/// The newest version of Landlock that this was written for: Linux 6.10 to 6.12 and later. Earlier ones are used as far as
/// they go.
const NEWEST: ABI = ABI::V6;

/// The version without which nothing is restricted: Linux 5.13.
const OLDEST: ABI = ABI::V1;

/// Restricts the calling thread, and those that it starts.
pub(super) fn restrict(places: &Places) -> Option<Lack> {
    match try_restrict(places) {
        Ok(RulesetStatus::NotEnforced) => {
            Some(Lack::new(Layer::Files, "the kernel has no Landlock, or it is not enabled"))
        }
        // An older version: files are restricted all the same.
        Ok(RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced) => None,
        Err(error) => Some(Lack::new(Layer::Files, error)),
    }
}

/// Whether the kernel can restrict files.
pub(crate) fn supports_landlock() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST))
        .and_then(Ruleset::create)
        .is_ok()
}

fn try_restrict(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        // What listens was bound before. Connecting is free: a reload may name another port, and a rule cannot be widened.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Devices, pipes and sockets are not among what is stored or kept alive.
    let write = AccessFs::from_all(NEWEST)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeFifo
            | AccessFs::MakeSock
            | AccessFs::IoctlDev);
    for place in &places.read {
        rules = add(rules, place, read)?;
    }
    // A rule for a file could not be made of it.
    for place in places.list.iter().filter(|place| place.is_dir()) {
        rules = add(rules, place, AccessFs::ReadDir.into())?;
    }
    for place in &places.write {
        rules = add(rules, place, write)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn add(
    rules: landlock::RulesetCreated,
    place: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    // What is not there, or may not be seen, cannot be read either.
    let Ok(opened) = PathFd::new(place) else { return Ok(rules) };
    let access = if place.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    rules.add_rule(PathBeneath::new(opened, access))
}
