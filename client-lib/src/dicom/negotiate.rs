//! Agreeing on an association: who may talk, about which classes, in which transfer syntax, in what portions (PS3.8 7.1.1, PS3.7 D.3).
//!
//! Transfer syntax taken of those offered in one context: the first, because a sender names its own form first and a gateway must not make it
//! convert; only where the first is one of the three native syntaxes, the best native one offered is taken: explicit little endian (keeps the value
//! representations), then explicit big endian, then implicit. So no sender is ever led to compress, decompress or deflate by us, and none to compress
//! with loss. Every syntax is taken, private and unknown ones too: content passes through as bytes.
//! Errors: accepting gives the `Reject` to send; proposing gives `ProposeError`.

use crate::dicom::pdu::{
    AssociationAC, AssociationRQ, PresentationContextProposed, PresentationContextResult, PresentationContextResultReason as Reason, Reject,
    RequestorRoles, UserVariableItem,
};
use crate::dicom::uid;
use crate::limits::{CONTEXTS_MAX, PDU_BYTES_UNSAID, STORE_WINDOW_MAX};
use std::collections::HashSet;

/// Item of the asynchronous operations window (PS3.7 D.3.3.3).
const ITEM_WINDOW: u8 = 0x53;
/// Item of the user identity response (PS3.7 D.3.3.7.2).
const ITEM_IDENTITY_RESPONSE: u8 = 0x59;
/// Longest AE title (PS3.5 6.2).
pub const AE_BYTES_MAX: usize = 16;

/// SOP classes an acceptor takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// Every storage class, standard and private.
    Storage,
    /// These only.
    List(HashSet<String>),
}

impl Classes {
    /// Whether instances of this class are taken.
    #[must_use]
    pub fn allow(&self, sop_class: &str) -> bool {
        match self {
            Classes::Storage => uid::is_storage_class(sop_class),
            Classes::List(list) => list.contains(sop_class),
        }
    }
}

/// What an acceptor agrees to.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// AE titles it answers to; none: any.
    pub called: Vec<String>,
    /// AE titles that may call; none: any.
    pub calling: Vec<String>,
    /// Classes besides Verification, which is always taken.
    pub classes: Classes,
    /// Largest P-DATA-TF it takes, in bytes.
    pub max_pdu: u32,
    /// Operations it lets be outstanding for those who ask.
    pub window: u16,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            called: Vec::new(),
            calling: Vec::new(),
            classes: Classes::Storage,
            max_pdu: crate::limits::PDU_BYTES_DEFAULT,
            window: STORE_WINDOW_MAX,
        }
    }
}

/// One agreed presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Odd, 1 to 255.
    pub id: u8,
    /// SOP class UID.
    pub abstract_syntax: String,
    /// Transfer syntax UID.
    pub transfer_syntax: String,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Calling AE title, blanks trimmed.
    pub calling_ae: String,
    /// Called AE title, blanks trimmed.
    pub called_ae: String,
    /// Accepted contexts, as proposed.
    pub contexts: Vec<Context>,
    /// Contexts that were proposed and not accepted: id, abstract syntax, result of PS3.8 9.3.3.2.
    pub refused: Vec<(u8, String, u8)>,
    /// Largest P-DATA-TF the peer takes, in bytes; 0: any.
    pub peer_max_pdu: u32,
    /// Operations the requestor may have outstanding; 1: synchronous.
    pub window: u16,
    /// The peer's implementation class UID, if it said.
    pub peer_class: Option<String>,
    /// The peer's implementation version name, if it said.
    pub peer_version: Option<String>,
}

impl Agreed {
    /// The context of an id.
    #[must_use]
    pub fn context(&self, id: u8) -> Option<&Context> {
        self.contexts.iter().find(|c| c.id == id)
    }

    /// The context in which content of this class and syntax can be sent as it is.
    #[must_use]
    pub fn find(&self, sop_class: &str, transfer_syntax: &str) -> Option<&Context> {
        self.contexts.iter().find(|c| c.abstract_syntax == sop_class && c.transfer_syntax == transfer_syntax)
    }

    /// Every context of a class, whatever the syntax.
    pub fn of_class<'a>(&'a self, sop_class: &'a str) -> impl Iterator<Item = &'a Context> {
        self.contexts.iter().filter(move |c| c.abstract_syntax == sop_class)
    }
}

/// Answers a request: the A-ASSOCIATE-AC and what it says.
/// # Errors
/// The `Reject` to send (PS3.8 9.3.4).
pub fn accept(policy: &Acceptance, rq: &AssociationRQ) -> Result<(AssociationAC, Agreed), Reject> {
    if rq.application_context_name != uid::APPLICATION_CONTEXT {
        return Err(Reject::APPLICATION_CONTEXT);
    }
    let (calling, called) = (rq.calling_ae_title.trim(), rq.called_ae_title.trim());
    if !policy.called.is_empty() && !policy.called.iter().any(|ae| ae.trim() == called) {
        return Err(Reject::CALLED_AE);
    }
    if !policy.calling.is_empty() && !policy.calling.iter().any(|ae| ae.trim() == calling) {
        return Err(Reject::CALLING_AE);
    }
    let mut agreed = Agreed {
        calling_ae: calling.to_owned(),
        called_ae: called.to_owned(),
        contexts: Vec::new(),
        refused: Vec::new(),
        peer_max_pdu: PDU_BYTES_UNSAID,
        window: 1,
        peer_class: None,
        peer_version: None,
    };
    let results = answer_contexts(policy, rq, &mut agreed);
    let user_variables = answer_user_items(policy, rq, &mut agreed);
    let ac = AssociationAC {
        protocol_version: 1,
        calling_ae_title: rq.calling_ae_title.clone(),
        called_ae_title: rq.called_ae_title.clone(),
        application_context_name: uid::APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables,
    };
    Ok((ac, agreed))
}

/// One result for each proposed context. An id that is even or was used before is answered as refused: it could not be told apart in P-DATA.
fn answer_contexts(policy: &Acceptance, rq: &AssociationRQ, agreed: &mut Agreed) -> Vec<PresentationContextResult> {
    let mut seen = HashSet::new();
    let mut results = Vec::with_capacity(rq.presentation_contexts.len().min(CONTEXTS_MAX));
    for proposed in &rq.presentation_contexts {
        if !seen.insert(proposed.id) {
            continue;
        }
        let class = proposed.abstract_syntax.as_str();
        let chosen = choose(&proposed.transfer_syntaxes);
        let reason = match chosen {
            _ if proposed.id % 2 == 0 => Reason::NoReason,
            _ if class != uid::VERIFICATION && !policy.classes.allow(class) => Reason::AbstractSyntaxNotSupported,
            None => Reason::TransferSyntaxesNotSupported,
            Some(_) => Reason::Acceptance,
        };
        let transfer_syntax = chosen.unwrap_or(uid::IMPLICIT_LE).to_owned();
        if reason == Reason::Acceptance {
            let context = Context { id: proposed.id, abstract_syntax: class.to_owned(), transfer_syntax: transfer_syntax.clone() };
            agreed.contexts.push(context);
        } else {
            agreed.refused.push((proposed.id, class.to_owned(), reason.clone() as u8));
        }
        results.push(PresentationContextResult { id: proposed.id, reason, transfer_syntax });
    }
    results
}

/// The syntax to take of those offered; see the head of this file.
fn choose(offered: &[String]) -> Option<&str> {
    let usable = || offered.iter().map(String::as_str).filter(|ts| uid::is_well_formed(ts));
    let first = usable().next()?;
    if !uid::is_native(first) {
        return Some(first);
    }
    [uid::EXPLICIT_LE, uid::EXPLICIT_BE].into_iter().find(|best| usable().any(|ts| ts == *best)).or(Some(first))
}

fn answer_user_items(policy: &Acceptance, rq: &AssociationRQ, agreed: &mut Agreed) -> Vec<UserVariableItem> {
    let mut answer =
        vec![UserVariableItem::MaxLength(policy.max_pdu), UserVariableItem::ImplementationClassUID(uid::IMPLEMENTATION_CLASS.to_owned())];
    let accepted: HashSet<&str> = agreed.contexts.iter().map(|c| c.abstract_syntax.as_str()).collect();
    let mut roles = HashSet::new();
    let mut late = Vec::new();
    for item in &rq.user_variables {
        match item {
            UserVariableItem::MaxLength(bytes) => agreed.peer_max_pdu = *bytes,
            UserVariableItem::ImplementationClassUID(class) => agreed.peer_class = Some(class.clone()),
            UserVariableItem::ImplementationVersionName(version) => agreed.peer_version = Some(version.clone()),
            UserVariableItem::ScuScpRoleSelectionSubItem(class, proposed) if accepted.contains(class.as_str()) && roles.insert(class.clone()) => {
                // We store what comes in and never send on an association we accepted: the requestor is SCU, not SCP.
                let granted = RequestorRoles { scu: proposed.scu, scp: false };
                answer.push(UserVariableItem::ScuScpRoleSelectionSubItem(class.clone(), granted));
            }
            UserVariableItem::UserIdentityItem(identity) if identity.positive_response_requested() => {
                // Empty server response: right for user names, and the least that can be said for tickets and assertions, which nobody here checks.
                late.push(UserVariableItem::Unknown(ITEM_IDENTITY_RESPONSE, vec![0, 0]));
            }
            UserVariableItem::Unknown(ITEM_WINDOW, value) => {
                if let [a, b, c, d] = value[..] {
                    let (invoked, performed) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                    agreed.window = if invoked == 0 { policy.window } else { invoked.min(policy.window) }.max(1);
                    // We invoke nothing; one is what everybody has to bear.
                    let performed = if performed == 0 { 1 } else { performed.min(1) };
                    let [a, b] = agreed.window.to_be_bytes();
                    let [c, d] = performed.to_be_bytes();
                    answer.push(UserVariableItem::Unknown(ITEM_WINDOW, vec![a, b, c, d]));
                }
            }
            _ => {}
        }
    }
    answer.push(UserVariableItem::ImplementationVersionName(uid::IMPLEMENTATION_VERSION.to_owned()));
    answer.append(&mut late);
    answer
}

/// What a requestor asks for.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Calling AE title, at most 16 characters.
    pub calling_ae: String,
    /// Called AE title, at most 16 characters.
    pub called_ae: String,
    /// One context each: SOP class, and transfer syntaxes in order of preference. At most 128.
    pub contexts: Vec<(String, Vec<String>)>,
    /// Largest P-DATA-TF taken, in bytes.
    pub max_pdu: u32,
    /// Operations that may be outstanding; 1 asks for nothing.
    pub window: u16,
}

/// A proposal that cannot be put into a PDU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many contexts for odd ids of one byte.
    #[error("{0} presentation contexts; an association takes at most {CONTEXTS_MAX}")]
    Contexts(usize),
    /// An AE title that is none.
    #[error("AE title {0:?}: 1 to 16 printable ASCII characters without backslash, not only blanks")]
    AeTitle(String),
    /// A UID that is none.
    #[error("{0:?} is no UID")]
    Uid(String),
}

/// True for an AE title as PS3.5 6.2 defines it.
#[must_use]
pub fn is_ae_title(text: &str) -> bool {
    text.len() <= AE_BYTES_MAX && !text.trim_matches(' ').is_empty() && text.bytes().all(|b| (0x20..0x7F).contains(&b) && b != b'\\')
}

/// The A-ASSOCIATE-RQ of a proposal.
/// # Errors
/// `ProposeError`.
pub fn propose(proposal: &Proposal) -> Result<AssociationRQ, ProposeError> {
    if proposal.contexts.len() > CONTEXTS_MAX {
        return Err(ProposeError::Contexts(proposal.contexts.len()));
    }
    for ae in [&proposal.calling_ae, &proposal.called_ae] {
        // A backslash came from the sender where the calling AE title is passed on; only what the PDU cannot hold is refused here.
        if ae.len() > AE_BYTES_MAX || ae.trim().is_empty() || !ae.is_ascii() {
            return Err(ProposeError::AeTitle(ae.clone()));
        }
    }
    let names = proposal.contexts.iter().flat_map(|(class, syntaxes)| std::iter::once(class).chain(syntaxes));
    if let Some(bad) = names.into_iter().find(|name| !uid::is_well_formed(name)) {
        return Err(ProposeError::Uid(bad.clone()));
    }
    let contexts = proposal.contexts.iter().zip((1u8..=255).step_by(2)).map(|((class, syntaxes), id)| PresentationContextProposed {
        id,
        abstract_syntax: class.clone(),
        transfer_syntaxes: syntaxes.clone(),
    });
    let mut user_variables =
        vec![UserVariableItem::MaxLength(proposal.max_pdu), UserVariableItem::ImplementationClassUID(uid::IMPLEMENTATION_CLASS.to_owned())];
    if proposal.window > 1 {
        let [a, b] = proposal.window.to_be_bytes();
        user_variables.push(UserVariableItem::Unknown(ITEM_WINDOW, vec![a, b, 0, 1]));
    }
    user_variables.push(UserVariableItem::ImplementationVersionName(uid::IMPLEMENTATION_VERSION.to_owned()));
    Ok(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: proposal.calling_ae.clone(),
        called_ae_title: proposal.called_ae.clone(),
        application_context_name: uid::APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: contexts.collect(),
        user_variables,
    })
}

/// What an answer to our request means. A context counts as accepted only with an id and a syntax that we proposed.
#[must_use]
pub fn agree(rq: &AssociationRQ, ac: &AssociationAC) -> Agreed {
    let mut agreed = Agreed {
        calling_ae: rq.calling_ae_title.trim().to_owned(),
        called_ae: rq.called_ae_title.trim().to_owned(),
        contexts: Vec::new(),
        refused: Vec::new(),
        peer_max_pdu: PDU_BYTES_UNSAID,
        window: 1,
        peer_class: None,
        peer_version: None,
    };
    for proposed in &rq.presentation_contexts {
        let result = ac.presentation_contexts.iter().find(|r| r.id == proposed.id);
        match result {
            Some(r) if r.reason == Reason::Acceptance && proposed.transfer_syntaxes.contains(&r.transfer_syntax) => agreed.contexts.push(Context {
                id: proposed.id,
                abstract_syntax: proposed.abstract_syntax.clone(),
                transfer_syntax: r.transfer_syntax.clone(),
            }),
            Some(r) if r.reason != Reason::Acceptance => {
                agreed.refused.push((proposed.id, proposed.abstract_syntax.clone(), r.reason.clone() as u8));
            }
            // Not answered at all, or in a syntax nobody proposed: nothing may be sent in it.
            _ => agreed.refused.push((proposed.id, proposed.abstract_syntax.clone(), Reason::NoReason as u8)),
        }
    }
    let asked = rq.user_variables.iter().find_map(|item| match item {
        UserVariableItem::Unknown(ITEM_WINDOW, value) if value.len() == 4 => Some(u16::from_be_bytes([value[0], value[1]])),
        _ => None,
    });
    for item in &ac.user_variables {
        match item {
            UserVariableItem::MaxLength(bytes) => agreed.peer_max_pdu = *bytes,
            UserVariableItem::ImplementationClassUID(class) => agreed.peer_class = Some(class.clone()),
            UserVariableItem::ImplementationVersionName(version) => agreed.peer_version = Some(version.clone()),
            UserVariableItem::Unknown(ITEM_WINDOW, value) if value.len() == 4 => {
                let granted = u16::from_be_bytes([value[0], value[1]]);
                if let Some(asked) = asked {
                    agreed.window = if granted == 0 { asked } else { granted.min(asked) }.max(1);
                }
            }
            _ => {}
        }
    }
    agreed
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dicom::pdu::UserIdentity;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const JPEG: &str = "1.2.840.10008.1.2.4.50";
    const LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

    fn proposal(contexts: &[(&str, &[&str])]) -> Proposal {
        Proposal {
            calling_ae: "MODALITY".into(),
            called_ae: "EVERPOST".into(),
            contexts: contexts.iter().map(|(class, syntaxes)| ((*class).into(), syntaxes.iter().map(|s| (*s).into()).collect())).collect(),
            max_pdu: 65536,
            window: 1,
        }
    }

    fn rq(contexts: &[(&str, &[&str])]) -> AssociationRQ {
        propose(&proposal(contexts)).unwrap()
    }

    #[test]
    fn the_syntax_that_needs_no_conversion_is_taken() {
        let table: [(&[&str], &str); 8] = [
            (&[uid::IMPLICIT_LE], uid::IMPLICIT_LE),
            (&[uid::IMPLICIT_LE, uid::EXPLICIT_LE, uid::DEFLATED_LE, uid::EXPLICIT_BE], uid::EXPLICIT_LE),
            (&[uid::EXPLICIT_BE, uid::IMPLICIT_LE], uid::EXPLICIT_BE),
            (&[LOSSLESS, uid::EXPLICIT_LE], LOSSLESS),
            (&[uid::IMPLICIT_LE, JPEG], uid::IMPLICIT_LE),
            (&[JPEG, uid::IMPLICIT_LE], JPEG),
            (&["1.2.840.113619.5.2", uid::IMPLICIT_LE], "1.2.840.113619.5.2"),
            (&["", "no uid", uid::DEFLATED_LE], uid::DEFLATED_LE),
        ];
        for (offered, expected) in table {
            let offered: Vec<String> = offered.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(choose(&offered), Some(expected), "{offered:?}");
        }
    }

    #[test]
    fn contexts_are_answered_one_by_one() {
        let mut rq = rq(&[
            (CT, &[JPEG]),
            (uid::VERIFICATION, &[uid::IMPLICIT_LE]),
            ("1.2.840.10008.5.1.4.31", &[uid::IMPLICIT_LE]),
            (CT, &[]),
            ("1.3.4.5", &[JPEG]),
        ]);
        rq.presentation_contexts[4].id = 8;
        let mut twice = rq.presentation_contexts[0].clone();
        twice.transfer_syntaxes = vec![LOSSLESS.into()];
        rq.presentation_contexts.push(twice);
        let (ac, agreed) = accept(&Acceptance::default(), &rq).unwrap();
        let results: Vec<(u8, u8)> = ac.presentation_contexts.iter().map(|c| (c.id, c.reason.clone() as u8)).collect();
        assert_eq!(results, [(1, 0), (3, 0), (5, 3), (7, 4), (8, 2)]);
        assert_eq!(agreed.find(CT, JPEG).map(|c| c.id), Some(1));
        assert_eq!(agreed.context(5), None);
        assert_eq!(agreed.of_class(CT).count(), 1);
        assert_eq!(agreed.peer_max_pdu, 65536);
        let list = Acceptance { classes: Classes::List(HashSet::from([String::from("1.3.4.5")])), ..Acceptance::default() };
        let (ac, _) = accept(&list, &rq).unwrap();
        assert_eq!(ac.presentation_contexts[0].reason, Reason::AbstractSyntaxNotSupported);
        assert_eq!(ac.presentation_contexts[1].reason, Reason::Acceptance, "Verification is always taken");
    }

    #[test]
    fn names_are_checked_with_the_right_reject() {
        let rq = rq(&[(CT, &[JPEG])]);
        let policy = |called: &str, calling: &str| Acceptance { called: vec![called.into()], calling: vec![calling.into()], ..Acceptance::default() };
        assert!(accept(&policy("EVERPOST", "MODALITY"), &rq).is_ok());
        assert_eq!(accept(&policy("OTHER", "MODALITY"), &rq).unwrap_err(), Reject::CALLED_AE);
        assert_eq!(accept(&policy("everpost", "MODALITY"), &rq).unwrap_err(), Reject::CALLED_AE, "AE titles are case sensitive");
        assert_eq!(accept(&policy("EVERPOST", "OTHER"), &rq).unwrap_err(), Reject::CALLING_AE);
        let other = AssociationRQ { application_context_name: "1.2.3".into(), ..rq };
        assert_eq!(accept(&Acceptance::default(), &other).unwrap_err(), Reject::APPLICATION_CONTEXT);
    }

    #[test]
    fn what_was_asked_for_is_answered() {
        let mut rq = rq(&[(CT, &[JPEG])]);
        let roles = RequestorRoles { scu: true, scp: true };
        rq.user_variables.push(UserVariableItem::ScuScpRoleSelectionSubItem(CT.into(), roles));
        rq.user_variables.push(UserVariableItem::ScuScpRoleSelectionSubItem("1.9".into(), roles));
        rq.user_variables.push(UserVariableItem::Unknown(ITEM_WINDOW, vec![0, 0, 0, 0]));
        let identity = |asked| UserIdentity::new(asked, dicom_ul::pdu::UserIdentityType::Username, b"user".to_vec(), Vec::new());
        rq.user_variables.push(UserVariableItem::UserIdentityItem(identity(true)));
        let (ac, agreed) = accept(&Acceptance::default(), &rq).unwrap();
        let has = |item: &UserVariableItem| ac.user_variables.contains(item);
        assert!(has(&UserVariableItem::ScuScpRoleSelectionSubItem(CT.into(), RequestorRoles { scu: true, scp: false })));
        assert!(!ac.user_variables.iter().any(|i| matches!(i, UserVariableItem::ScuScpRoleSelectionSubItem(class, _) if class == "1.9")));
        assert!(has(&UserVariableItem::Unknown(ITEM_WINDOW, vec![0, STORE_WINDOW_MAX as u8, 0, 1])), "unlimited becomes ours");
        assert!(has(&UserVariableItem::Unknown(ITEM_IDENTITY_RESPONSE, vec![0, 0])));
        assert!(has(&UserVariableItem::MaxLength(crate::limits::PDU_BYTES_DEFAULT)));
        assert_eq!(agreed.window, STORE_WINDOW_MAX);
        rq.user_variables.retain(|i| !matches!(i, UserVariableItem::Unknown(..) | UserVariableItem::UserIdentityItem(_)));
        rq.user_variables.push(UserVariableItem::UserIdentityItem(identity(false)));
        let (ac, agreed) = accept(&Acceptance::default(), &rq).unwrap();
        assert!(!ac.user_variables.iter().any(|i| matches!(i, UserVariableItem::Unknown(..))), "nothing that was not asked for");
        assert_eq!(agreed.window, 1);
    }

    #[test]
    fn both_sides_come_to_the_same_agreement_over_the_wire() {
        use crate::dicom::association::{Association, Indication};
        let wanted = Proposal { window: 4, ..proposal(&[(CT, &[JPEG, uid::IMPLICIT_LE]), ("1.2.840.10008.5.1.4.31", &[uid::IMPLICIT_LE])]) };
        let rq = propose(&wanted).unwrap();
        let (mut scu, mut scp) = (Association::requesting(rq.clone(), wanted.max_pdu), Association::accepting(262_144));
        let bytes = scu.output().split();
        scp.space().extend_from_slice(&bytes);
        let Some(Indication::Requested(received)) = scp.poll() else { panic!("no request") };
        let (ac, of_scp) = accept(&Acceptance::default(), &received).unwrap();
        scp.accept(ac).unwrap();
        let bytes = scp.output().split();
        scu.space().extend_from_slice(&bytes);
        let Some(Indication::Accepted(ac)) = scu.poll() else { panic!("no answer") };
        let of_scu = agree(&rq, &ac);
        assert_eq!((of_scu.window, of_scp.window), (4, 4));
        assert_eq!(of_scu.contexts, of_scp.contexts);
        assert_eq!(of_scu.refused, of_scp.refused);
        assert_eq!((scu.peer_max_pdu(), scp.peer_max_pdu()), (262_144, 65536));
        assert_eq!(of_scu.peer_version.as_deref(), Some(uid::IMPLEMENTATION_VERSION));
    }

    #[test]
    fn an_answer_nobody_asked_for_counts_for_nothing() {
        let rq = rq(&[(CT, &[JPEG]), (CT, &[LOSSLESS])]);
        let (mut ac, _) = accept(&Acceptance::default(), &rq).unwrap();
        ac.presentation_contexts[0].transfer_syntax = LOSSLESS.into();
        ac.presentation_contexts.truncate(1);
        ac.user_variables.push(UserVariableItem::Unknown(ITEM_WINDOW, vec![0, 9, 0, 9]));
        let agreed = agree(&rq, &ac);
        assert!(agreed.contexts.is_empty());
        assert_eq!(agreed.refused.len(), 2);
        assert_eq!(agreed.window, 1);
    }

    #[test]
    fn what_does_not_fit_into_a_pdu_is_not_proposed() {
        let many: Vec<(&str, &[&str])> = vec![(CT, &[JPEG]); CONTEXTS_MAX + 1];
        assert_eq!(propose(&proposal(&many)).unwrap_err(), ProposeError::Contexts(129));
        let rq = rq(&many[..CONTEXTS_MAX]);
        assert_eq!(rq.presentation_contexts.last().unwrap().id, 255);
        assert!(matches!(propose(&Proposal { calling_ae: "X".repeat(17), ..proposal(&[]) }), Err(ProposeError::AeTitle(_))));
        assert!(matches!(propose(&proposal(&[("none", &[])])), Err(ProposeError::Uid(_))));
        assert!(is_ae_title("A B") && !is_ae_title("  ") && !is_ae_title("A\\B") && !is_ae_title("ÄE"));
    }
}
