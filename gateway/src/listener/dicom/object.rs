//! One request with its data set on the way in: from the command to the commit, or to the refusal.
//! Rules: an object that is refused is still read to its end, because the association goes on behind it. The status says whether the sender should
//! come back (A7xx), look at the content (Cxxx) or choose another peer (0122H). SOP class and instance are the command's, whatever the data set says.
//! Errors: none; they become statuses.

use crate::config::Listener;
use crate::intake::Intake;
use bytes::Bytes;
use everpost_client::dicom::dimse::{self, Response, StoreRq};
use everpost_client::dicom::negotiate::{Agreed, Context};
use everpost_client::dicom::walker::KeyReader;
use everpost_client::dicom::{status, uid};
use everpost_client::event::Refusal;
use everpost_client::io::in_place;
use everpost_client::keys::{Key, Keys, Protocol};
use everpost_client::spool::{Addressee, Content, ContentWriter, Receipt};
use std::net::SocketAddr;
use std::sync::Arc;

/// A request whose data set is being received.
pub(super) struct Object {
    context: u8,
    response: Response,
    /// None: refused, its bytes are dropped.
    taking: Option<Box<Taking>>,
}

/// An object on its way into the spool.
struct Taking {
    keys: Keys,
    reader: KeyReader,
    reading: bool,
    instance: String,
    writer: ContentWriter,
    bytes: u64,
    mismatch: bool,
}

/// What became of an object.
pub(super) enum Whole {
    /// Answer this.
    Refused(Response),
    /// Commit this, then answer.
    Commit { response: Response, keys: Keys, content: Content, addressees: Vec<Addressee> },
}

impl Object {
    /// Starts a C-STORE.
    pub(super) fn begin(
        request: StoreRq,
        data_set: bool,
        agreed: &Agreed,
        context: &Context,
        peer: SocketAddr,
        intake: &Intake,
        listener: &Arc<Listener>,
    ) -> Self {
        let mut response = Response {
            command_field: dimse::C_STORE_RSP,
            message_id: request.message_id,
            sop_class: Some(request.sop_class.clone()),
            sop_instance: Some(request.sop_instance.clone()),
            ..Response::default()
        };
        let mut refused = |status, element, comment: &str| {
            response.status = status;
            response.offending = vec![(0, element)];
            response.error_comment = Some(comment.to_owned());
            intake.refused(listener, Refusal::Malformed);
            Object { context: context.id, response: response.clone(), taking: None }
        };
        if request.sop_class != context.abstract_syntax {
            return refused(status::SOP_CLASS_NOT_SUPPORTED, 0x0002, "SOP class is not that of the presentation context");
        }
        if !uid::is_well_formed(&request.sop_instance) {
            return refused(status::INVALID_INSTANCE, 0x1000, "SOP instance UID is missing or is none");
        }
        if !data_set {
            return refused(status::CANNOT_UNDERSTAND, 0x0800, "a C-STORE needs a data set");
        }
        let writer = match intake.content_writer(listener) {
            Ok(writer) => writer,
            Err(refusal) => {
                intake.refused(listener, refusal);
                refuse(&mut response, refusal);
                return Object { context: context.id, response, taking: None };
            }
        };
        let mut keys = Keys::new();
        keys.set(Key::Listener, listener.name.as_bytes());
        keys.set(Key::Peer, peer.ip().to_canonical().to_string().as_bytes());
        keys.set(Key::CallingAe, agreed.calling_ae.as_bytes());
        keys.set(Key::CalledAe, agreed.called_ae.as_bytes());
        keys.set(Key::SopClass, request.sop_class.as_bytes());
        keys.set(Key::TransferSyntax, context.transfer_syntax.as_bytes());
        keys.set(Key::Priority, &request.priority.to_le_bytes());
        if let Some(ae) = &request.move_originator_ae {
            keys.set(Key::MoveOriginatorAe, ae.as_bytes());
        }
        if let Some(id) = request.move_originator_id {
            keys.set(Key::MoveOriginatorId, &id.to_le_bytes());
        }
        let reader = KeyReader::new(&context.transfer_syntax);
        let taking = Taking { keys, reader, reading: true, instance: request.sop_instance, writer, bytes: 0, mismatch: false };
        Object { context: context.id, response, taking: Some(Box::new(taking)) }
    }

    /// A request that is answered as it is, once its data set has passed.
    pub(super) fn refused(context: u8, response: Response) -> Self {
        Object { context, response, taking: None }
    }

    /// Its presentation context.
    pub(super) fn context(&self) -> u8 {
        self.context
    }

    /// Takes bytes of the data set.
    pub(super) fn write(&mut self, bytes: &Bytes, intake: &Intake, listener: &Arc<Listener>) {
        let Some(taking) = &mut self.taking else { return };
        if let Err(refusal) = taking.write(bytes) {
            intake.refused(listener, refusal);
            refuse(&mut self.response, refusal);
            self.taking = None; // frees what was written
        }
    }

    /// Where the next bytes of the data set may be put, instead of `write`: at most so many. `None` while the head is being read, and for what is refused.
    pub(super) fn space(&mut self, context: u8, most: usize) -> Option<&mut [u8]> {
        let taking = self.taking.as_mut().filter(|taking| !taking.reading && context == self.context)?;
        let space = taking.writer.space();
        let most = most.min(space.len());
        Some(&mut space[..most]).filter(|space| !space.is_empty())
    }

    /// So many bytes were put there.
    pub(super) fn passed(&mut self, bytes: usize, intake: &Intake, listener: &Arc<Listener>) {
        let Some(taking) = &mut self.taking else { return };
        if let Err(refusal) = taking.passed(bytes) {
            intake.refused(listener, refusal);
            refuse(&mut self.response, refusal);
            self.taking = None;
        }
    }

    /// The data set is whole.
    pub(super) fn finish(self, intake: &Intake, listener: &Arc<Listener>) -> Whole {
        let Object { mut response, taking, .. } = self;
        let Some(taking) = taking else { return Whole::Refused(response) };
        let Taking { mut keys, instance, writer, bytes, .. } = *taking;
        keys.set(Key::SopInstance, instance.as_bytes());
        if bytes == 0 {
            intake.refused(listener, Refusal::Malformed);
            refuse(&mut response, Refusal::Malformed);
            return Whole::Refused(response);
        }
        match intake.route(&keys, Protocol::Dicom) {
            Ok(addressees) => Whole::Commit { response, keys, content: Content::Streamed(writer.finish()), addressees },
            Err(refusal) => {
                intake.refused(listener, refusal);
                refuse(&mut response, refusal);
                Whole::Refused(response)
            }
        }
    }

    /// Something people should know of it.
    pub(super) fn notice(&self) -> Option<&'static str> {
        let mismatch = self.taking.as_ref().is_some_and(|taking| taking.mismatch);
        mismatch.then_some("SOP instance UIDs of a command and its data set differ; the object was taken under the command's")
    }
}

impl Taking {
    fn write(&mut self, bytes: &Bytes) -> Result<(), Refusal> {
        if self.reading {
            self.reading = self.reader.push(bytes, &mut self.keys);
            if let Some(found) = self.keys.get(Key::SopInstance) {
                self.mismatch = found != self.instance.as_bytes();
            }
        }
        self.bytes += bytes.len() as u64;
        let blocks = self.writer.would_block(bytes.len());
        let written = if blocks { in_place::run(|| self.writer.write(bytes)) } else { self.writer.write(bytes) };
        written.map_err(|error| crate::intake::refusal(&error))
    }

    fn passed(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes as u64;
        let blocks = self.writer.would_block(bytes);
        let written = if blocks { in_place::run(|| self.writer.wrote(bytes)) } else { self.writer.wrote(bytes) };
        written.map_err(|error| crate::intake::refusal(&error))
    }
}

/// The positive answer. It takes a receipt: nobody else can say 0000H to a C-STORE.
pub(super) fn accept(response: &mut Response, _stored: &Receipt) {
    response.status = status::SUCCESS;
}

/// The negative answer. The comments are ours and hold nothing of the object.
pub(super) fn refuse(response: &mut Response, refusal: Refusal) {
    let (status, comment) = match refusal {
        Refusal::NoRoute => (status::SOP_CLASS_NOT_SUPPORTED, "no route takes this object"),
        Refusal::Malformed => (status::CANNOT_UNDERSTAND, "the data set is empty"),
        Refusal::Reserve => (status::OUT_OF_RESOURCES, "the gateway's disk is full"),
        Refusal::Sync => (status::OUT_OF_RESOURCES, "the gateway could not make it durable"),
        Refusal::TooLarge => (status::OUT_OF_RESOURCES, "the object is too large"),
        Refusal::Limit => (status::OUT_OF_RESOURCES, "a limit of the gateway is reached"),
        Refusal::Stopping => (status::OUT_OF_RESOURCES, "the gateway is stopping"),
    };
    response.status = status;
    response.error_comment = Some(comment.to_owned());
}
