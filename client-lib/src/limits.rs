//! Every hard limit, with its name and its reason. Reaching one is an event, never a silent drop.
//! Rules: a limit that an operator may want to change is a configuration key instead; its default and range stand here too.

use std::time::Duration;

/// Longest value kept in a key table, in bytes: a key is for finding and routing. HL7 MSH-10 has at most 199 characters, a UID 64.
pub const KEY_BYTES_MAX: usize = 512;

/// Content up to this size stands in the journal beside its record; larger content goes to content segments. One synced write instead of two.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// Size of a content chunk, in bytes: what one sender may hold in memory.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Destinations of one message: a record lists them all.
pub const FAN_OUT_MAX: usize = 64;

/// Destinations one gateway knows, those of former configurations with waiting envelopes included.
pub const DESTINATIONS_MAX: usize = 4096;

/// Longest name of a listener, destination, endpoint, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Default and largest MLLP block, in bytes: a block carries no length, so a peer could otherwise fill our memory.
pub const MLLP_BLOCK_BYTES_DEFAULT: usize = 64 << 20;

/// Blocks longer than this are taken in parts and streamed to the spool: the size up to which content stands in the journal.
pub const MLLP_PART_BYTES: usize = INLINE_BYTES_MAX;

/// A block over the listener's limit is read to its end, without being kept, so that its sender gets an answer; at this multiple of the limit the
/// connection is closed instead.
pub const MLLP_SKIP_FACTOR: u64 = 4;

/// Bytes between two blocks after which a connection is closed: whoever sends that much without a block does not speak MLLP.
pub const MLLP_GARBAGE_BYTES_MAX: u64 = 64 << 10;

/// Messages of one MLLP connection whose commits run at the same time: senders that pipeline get group commit too.
pub const MLLP_COMMITS_MAX: usize = 64;

/// Bytes of those messages: what one connection may hold in memory while it waits for the disk.
pub const MLLP_COMMIT_BYTES_MAX: usize = 128 << 10;

/// Read buffer of an MLLP connection between blocks, in bytes: most messages fit, and a thousand idle connections cost 8 MiB.
pub const MLLP_READ_BYTES: usize = 8 << 10;

/// Longest time a sender may leave its answers unread, in seconds: they are small, so this is a peer that never reads.
pub const MLLP_WRITE_SECONDS_MAX: u64 = 30;

/// Longest time one MLLP block may take to arrive, in seconds: 64 MiB at 1 Mbit/s take nine minutes.
pub const MLLP_BLOCK_SECONDS_MAX: u64 = 1800;

/// How long an object or block may come as slowly as it likes, and what it must come with on average then, in bytes per second: a sender that sends a
/// byte now and then keeps a connection, an association and a buffer from others. A modem line of 1995 was faster.
pub const INTAKE_GRACE: Duration = Duration::from_secs(60);

/// See `INTAKE_GRACE`.
pub const INTAKE_BYTES_PER_SECOND_MIN: u64 = 1024;

/// Longest pause that an object or block may earn by having come fast before.
pub const INTAKE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long a peer is listened to once more when a deadline has passed: after this process stood still (frozen, suspended), all deadlines have passed
/// while what the peer sent in time lies unread.
pub const LAST_LOOK: Duration = Duration::from_millis(500);

/// Part of a listener's associations that there is on top of them, for addresses that have none: a quarter.
pub const ASSOCIATIONS_FOR_OTHERS: usize = 4;

/// Largest answer read from an HL7 peer, in bytes: an ACK has some hundred; a batch of them has more.
pub const MLLP_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Messages settled by CA that a connection remembers, to know the second answer of enhanced mode when it comes.
pub const MLLP_SECOND_ANSWERS_MAX: usize = 64;

/// Longest segment of which fields are read, in bytes; longer ones are cut there for the key table (content is untouched).
pub const SEGMENT_HEAD_BYTES_MAX: usize = 16 << 10;

/// Largest MSH segment read, in bytes.
pub const MSH_BYTES_MAX: usize = 16 << 10;

/// Largest A-ASSOCIATE PDU accepted, in bytes: 128 contexts with 40 transfer syntaxes each fit three times.
pub const ASSOCIATE_BYTES_MAX: usize = 1 << 20;

/// Largest DIMSE command set accepted, in bytes: a C-STORE-RQ has about 400.
pub const COMMAND_BYTES_MAX: usize = 16 << 10;

/// Head of a data set kept for reading keys, in bytes.
pub const DATASET_HEAD_BYTES_MAX: usize = 64 << 10;

/// Nesting depth of sequences the walker follows before it gives up on reading keys.
pub const SEQUENCE_DEPTH_MAX: usize = 64;

/// Presentation contexts of an association: ids are odd numbers from 1 to 255 (PS3.8 9.3.2.2).
pub const CONTEXTS_MAX: usize = 128;

/// Bytes inflated from a deflated data set to find its keys: deflate expands up to 1,000 times, keys stand near the beginning.
pub const KEYS_INFLATED_BYTES_MAX: usize = 1 << 20;

/// Largest PEM file read, in bytes: the bundle of all public authorities has a quarter of it.
pub const PEM_BYTES_MAX: u64 = 1 << 20;

/// Connections that the system keeps for a listener before they are accepted: a burst of senders after an outage.
pub const BACKLOG: i32 = 1024;

/// Pause before the next try when the system has no descriptor or memory for a connection.
pub const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Time between two notices of one kind from one listener: a peer that is turned away a thousand times a second must not fill the log.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Largest configuration file read, in bytes: whatever is larger is not one.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Listeners of one gateway: each holds a socket.
pub const LISTENERS_MAX: usize = 256;

/// Routes of one gateway: each is tried on each message.
pub const ROUTES_MAX: usize = 1024;

/// Sites of one gateway: hospitals have a few.
pub const SITES_MAX: usize = 64;

/// How long before its end a certificate is warned of.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(30 * 86_400);

/// Endpoints of one destination: more would be a configuration gone wrong, and each is probed.
pub const ENDPOINTS_MAX: usize = 64;

/// Attempts of one envelope that its story tells of one by one, counted from the first; with the last ones they cost 16 bytes of memory each while it
/// waits, and stay in the journal as long. Those between are counted, and told only as long as history has them.
pub const ATTEMPTS_FIRST_KEPT: usize = 8;

/// The same, counted from the last.
pub const ATTEMPTS_LAST_KEPT: usize = 24;

/// Default of `retry.first`.
pub const RETRY_FIRST_DEFAULT: Duration = Duration::from_secs(1);

/// Default of `retry.max`.
pub const RETRY_MAX_DEFAULT: Duration = Duration::from_secs(60);

/// Default of `health.interval`.
pub const PROBE_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// Default of `health.timeout`.
pub const PROBE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// Default and least of `health.store_interval`: an archive is no place for a stream of test objects.
pub const PROBE_STORE_INTERVAL: Duration = Duration::from_secs(300);

/// Default of `health.rehearse`.
pub const REHEARSAL_INTERVAL: Duration = Duration::from_secs(600);

/// Wait before the next rehearsal with an endpoint that was found not ready, or when something new was seen: people who mend want to see it.
pub const REHEARSAL_SOON: Duration = Duration::from_secs(60);

/// How long what was seen of a destination's traffic is rehearsed.
pub const SEEN_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Kinds of objects remembered of one destination (calling AE title, SOP class, transfer syntax): what one association can propose, and one value of the
/// spool's memory can hold. Beyond it the oldest is forgotten.
pub const SEEN_MAX: usize = CONTEXTS_MAX;

/// Time between two writes of what was seen of one destination: each day every kind is seen for the first time once more.
pub const SEEN_WRITTEN_EVERY: Duration = Duration::from_secs(1);

/// Things a standby would refuse that its status names; the rest is counted.
pub const REFUSALS_TOLD_MAX: usize = 4;

/// Matches of one C-FIND that are read (`reconcile`): a CT series of today has some thousand instances. Beyond it each instance is asked for by itself.
pub const FIND_MATCHES_MAX: usize = 10_000;

/// Largest data set of a match that is read, in bytes: the four attributes that are asked for have some 200; archives add what they like.
pub const FIND_MATCH_BYTES_MAX: usize = 64 << 10;

/// UIDs kept of what an endpoint says it has (`reconcile`), some 150 bytes each: two long lists. Beyond it the oldest list is forgotten and asked for again.
pub const HOLDINGS_MAX: usize = 2 * FIND_MATCHES_MAX;

/// How long an endpoint is believed about what it has (`reconcile`): long enough for the images of a series, too short to matter for what comes otherwise.
pub const HOLDINGS_KEPT: Duration = Duration::from_secs(60);

/// Longest time for the whole answer to one C-FIND, whatever the single responses take: no replay waits longer for its question.
pub const FIND_WHOLE: Duration = Duration::from_secs(120);

/// How long an endpoint that answers no queries is not asked again, and is sent everything (`reconcile`).
pub const FIND_REFUSED_KEPT: Duration = Duration::from_secs(600);

/// The same when a query broke off, came to no end in time, or was failed by the endpoint.
pub const FIND_FAILED_KEPT: Duration = Duration::from_secs(30);

/// Head of an HTTP answer that a probe reads, in bytes: the status stands in its first line, and a peer must not fill our memory.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;

/// Notices of one listener's conversations told per `NOTICE_INTERVAL`; those beyond are counted.
pub const NOTICES_MAX: u32 = 20;

/// Pairs of listener and kind of message whose lack of a route is told to people between two reloads: each is told once, and a peer can invent kinds.
pub const NO_ROUTE_NOTICES_MAX: usize = 256;

/// How long a replay is tried while a receiver puts it off (AR, CE): longer than most receivers are busy, and not for ever, because newer messages of
/// its lane wait behind it.
pub const REPLAY_PUT_OFF_MAX: Duration = Duration::from_secs(300);

/// Idle time before the system asks a silent peer whether it is still there: below the 60 s after which some firewalls forget a connection.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Time between such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered questions after which the connection counts as lost.
pub const KEEPALIVE_RETRIES: u32 = 3;

/// How long a TLS connection with unread bytes is looked at before it counts as reusable: the bytes were session tickets.
pub const STALE_READ: Duration = Duration::from_millis(50);

/// Delay before the next address of a name is tried beside the one before (RFC 8305 section 5).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Look-ups under way at a time: each has sockets of its own, and a dead server holds them for seconds.
pub const LOOKUPS_MAX: usize = 64;

/// Deadline of one look-up, all servers and retries included. Deliveries go on with the last answer meanwhile.
pub const LOOKUP: Duration = Duration::from_secs(5);

/// How long one DNS server has for its answer before the next one, or the same again, is asked.
pub const LOOKUP_SERVER: Duration = Duration::from_millis(1500);

/// How long the other address family may still take when one has answered: a server that drops AAAA queries must not hold up what A has found.
pub const LOOKUP_FAMILY: Duration = Duration::from_millis(500);

/// How long a new connection waits for the look-up that a failed one has asked for: a local DNS server answers within it, a dead one costs no more.
pub const LOOKUP_CHECK: Duration = Duration::from_millis(30);

/// How long a destination that begins waits for the first answer about its pools, so that its first envelopes find them.
pub const POOL_KNOWN: Duration = Duration::from_secs(2);

/// DNS servers in `[names] servers`: beyond the first few nobody is asked before the deadline.
pub const NAME_SERVERS_MAX: usize = 8;

/// Addresses of a name that are used: beyond it a connect would never come to the last ones.
pub const ADDRESSES_MAX: usize = 64;

/// Largest `/etc/hosts` read, in bytes: lists against advertisements have some megabytes.
pub const HOSTS_BYTES_MAX: u64 = 16 << 20;

/// Longest name of a pool's member, in bytes: what stands in the spool's records has at most 255.
pub const MEMBER_NAME_BYTES_MAX: usize = 200;

/// Deadline of an incoming TLS handshake: a peer that needs longer is not one that sends messages.
pub const TLS_ACCEPT: Duration = Duration::from_secs(10);

/// Items of one A-ASSOCIATE PDU, sub items included: 128 contexts with 60 transfer syntaxes each. Bounds the memory a peer can make us spend on it.
pub const ASSOCIATE_ITEMS_MAX: usize = 8192;

/// Largest fixed-size upper layer PDU (reject, release, abort), in bytes: the standard says 4; a little more is tolerated and ignored.
pub const SMALL_PDU_BYTES_MAX: usize = 64;

/// Default of `max_pdu`, in bytes: the P-DATA-TF we say we take.
pub const PDU_BYTES_DEFAULT: u32 = 256 << 10;

/// Range of `max_pdu`, in bytes. Received PDUs are streamed, so a large one costs no memory.
pub const PDU_BYTES_RANGE: std::ops::RangeInclusive<u32> = 4096..=16 << 20;

/// Largest P-DATA-TF we send, in bytes, whatever the peer allows.
pub const PDU_BYTES_SENT_MAX: u32 = 256 << 10;

/// Assumed for a peer that names no maximum length, in bytes: what the common toolkits assume.
pub const PDU_BYTES_UNSAID: u32 = 16 << 10;

/// Read buffer of a DICOM connection that carries data, in bytes: fits the second level cache, so the copy into the chunk is cheap.
pub const DICOM_READ_BYTES: usize = 128 << 10;

/// Read buffer of a DICOM connection before its association and while idle, in bytes.
pub const DICOM_READ_BYTES_IDLE: usize = 4 << 10;

/// Pieces of a data set of this size and more are read straight into the chunk that goes to disk: with smaller ones a read of several at once costs less
/// than their copy.
pub const STRAIGHT_BYTES_MIN: usize = 32 << 10;

/// The ARTIM timer (PS3.8 9.1.5): how long a connection may stay without asking for an association, and without being closed after its end.
pub const ARTIM: Duration = Duration::from_secs(15);

/// How long a peer may take to take a response.
pub const DICOM_WRITE: Duration = Duration::from_secs(30);

/// Quiet time after which an association gives its buffers back.
pub const DICOM_REST: Duration = Duration::from_secs(2);

/// Tasks that block on the disk in place at a time (`io::in_place`): each needs a thread, of which the runtime has 512.
pub const IN_PLACE_MAX: usize = 256;

/// Commits of the last group up to which the next one is led in place: with more, the leader thread does it, and others join meanwhile.
pub const LONE_COMMITS_MAX: usize = 2;

/// How long an aborted peer is listened to while we stop, so that the last answer is not lost with an early close.
pub const DICOM_STOP_LINGER: Duration = Duration::from_secs(1);

/// C-STOREs a sender may have outstanding on one association (PS3.7 D.3.3.3), if it asks: we answer in order, each holds its keys until durable.
pub const STORE_WINDOW_MAX: u16 = 16;

/// Head of a DICOM file read to find its data set: File Meta Information has about 400 bytes, with private information in it some thousand.
pub const FILE_HEAD_BYTES_MAX: usize = 256 << 10;

/// Envelopes of one destination that wait for a time of their own. Beyond it the destination takes no new ones until one of these is due: each costs
/// about 150 bytes, and so many refused ones among delivered ones are a fault that people must see.
pub const DEFERRED_MAX: usize = 16_384;

/// Wait for a release's answer, and for an abort to leave, before the connection is closed anyway: the work is done by then.
pub const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// How long an association keeps its place while others wait that call with other AE titles: long enough for dozens of images, short enough to share.
pub const ASSOCIATION_TURN: Duration = Duration::from_millis(500);

/// Attempts handed out per place where each sender's own AE title is passed on, so that those with the same title can follow each other.
pub const ATTEMPTS_PER_PLACE: usize = 8;

/// How long a peer is taken at its word that it takes no more associations at once: then one more is tried, at the cost of one connect time-out.
pub const ASSOCIATION_LIMIT_KEPT: Duration = Duration::from_secs(300);

/// Wait for idle associations to be released when the process ends: a frozen peer must not hold the stop up.
pub const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Read buffer of an association that we requested, in bytes: what comes back are responses of some 150 bytes.
pub const RESPONSE_READ_BYTES: usize = 4 << 10;

/// Pairs of SOP class and transfer syntax a DICOM destination remembers to propose again, so that mixed traffic does not change associations.
pub const CONTEXTS_REMEMBERED_MAX: usize = 64;

/// Waiting envelopes looked at for presentation contexts when an association is opened: twice the contexts one can have.
pub const CONTEXTS_PEEK_MAX: usize = 256;

/// Longest time a settlement waits for a commit to ride with: what a crash may repeat.
pub const SETTLEMENT_WAIT: Duration = Duration::from_millis(10);

/// Time between two rounds of the spool's housekeeping.
pub const MAINTENANCE: Duration = Duration::from_secs(1);

/// Grace of a client's close beyond its own time, for what was cut and for calls on other threads.
pub const CLIENT_CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Outages of a destination that are remembered: more than one a day for as long as they count, in some 30 KB of the spool.
pub const OUTAGES_KEPT: usize = 64;

/// How long an outage is remembered and counts among the worst.
pub const OUTAGES_KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);

/// Segment files of a spool that are kept open, beside those being written; each may have a second descriptor. A backlog has thousands, a process of its
/// host's often 1,024 descriptors in all.
pub const SPOOL_FILES_OPEN_MAX: usize = 64;

/// How long a drill stays on the other endpoint when nothing is said: long enough for some tens of answers.
pub const DRILL_STAY_DEFAULT: Duration = Duration::from_secs(30);

/// Percent of failed attempts at which a drill stops when nothing is said.
pub const DRILL_ERRORS_DEFAULT: u16 = 10;

/// Age of the oldest waiting envelope at which a drill stops when nothing is said.
pub const DRILL_AGE_DEFAULT: Duration = Duration::from_secs(300);

/// How long a simulated fault lasts unless the drill that made it says so again: whatever becomes of the drill, its fault ends.
pub const FAULT_LEASE: Duration = Duration::from_secs(5);
