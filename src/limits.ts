/**
 * Every number that bounds something, with its reason, asserted against its neighbours. Times end in Ms,
 * sizes in Bytes; a plain noun counts things.
 */
import { strict as assert } from 'node:assert'

// Messages and batches.

/** SP 800-38D allows 2^36 - 32 bytes an invocation; a message has to fit a request and a slot as well. */
export const MESSAGE_BYTES_MAX = 16 * 2 ** 20
/** The message index is 32 bits of the nonce, and FFFFFFFF is the batch tag's. 65,536 keeps a batch below 2^36 blocks. */
export const BATCH_MESSAGES_MAX = 65_536
/** 4,096 messages of 16 KiB and their headers pass. */
export const REQUEST_BYTES_MAX_DEFAULT = 72 * 2 ** 20
/** A request names few keys in practice; a hostile one would make the server unwrap one per message. */
export const KEY_ENTRIES_MAX = 256
/** Operations in one POST /v1/batch. */
export const OPERATIONS_MAX = 256
/** AWS KMS's bound on the context of one request is 8,192 bytes in all. */
export const CONTEXT_BYTES_MAX = 8_192
/** The longest wrapped key of any store: AWS blobs reach 6,144 bytes; ours with it inside stay below u16. */
export const WRAPPED_KEY_BYTES_MAX = 8_192
/** AWS KMS encrypts at most 4,096 bytes a call; we take the same for a caller's own key (usage 02). */
export const CALLER_PLAINTEXT_BYTES_MAX = 4_096
/** GenerateDataKey answers 1 to 1,024 bytes. Ours on /v1/data-keys are AES-256 keys. */
export const DATA_KEYS_PER_REQUEST_MAX = 1_024

/** Message keys that leave the server in one answer: a client needs one at a time, and the next one a little ahead. */
export const MESSAGE_KEYS_PER_REQUEST_MAX = 16

// Message keys: what one may seal before the next takes over (formats.md; SP 800-38D §8.3).

export const MESSAGE_KEY_AGE_MS_DEFAULT = 300_000
export const MESSAGE_KEY_AGE_MS_MAX = 3_600_000
export const MESSAGE_KEY_MESSAGES_DEFAULT = 2 ** 24
export const MESSAGE_KEY_MESSAGES_MAX = 2 ** 32
export const MESSAGE_KEY_BYTES_DEFAULT = 2 ** 36
export const MESSAGE_KEY_BYTES_MAX = 2 ** 50
/** The next message key is fetched at this share of any limit, so that no request waits at a rollover. */
export const MESSAGE_KEY_REFRESH_SHARE = 0.8
/** In-process mode asks its server anew after so long: what was revoked there ends here by then. */
export const IN_PROCESS_KEY_AGE_MS_DEFAULT = 60_000
/** Entries of the data-key cache, seal and open side each. A slot of the key table is 512 bytes. */
export const DATA_KEY_CACHE_ENTRIES_DEFAULT = 4_096
/** Misses a principal may cause: a burst, then a steady rate. A context unique to each message ends here. */
export const MISS_BUDGET_BURST_DEFAULT = 4_096
export const MISS_BUDGET_PER_SECOND_DEFAULT = 1_024
/** Message keys of one principal and KMS key that are judged together: fewer say little, more say it late. */
export const REUSE_WINDOW_KEYS = 256
/** Of those, the share that may have sealed a single batch before it looks like a context unique to each message. */
export const USED_ONCE_SHARE_MAX = 0.75
/** A warning about one principal and KMS key is given once in this time: it is for people. */
export const REUSE_WARNING_MS = 60_000
/** Pairs of principal and KMS key that are watched; names and counts, some 300 bytes each. */
export const REUSE_WATCHED_MAX = 4_096

// The key table (native/key_table.h holds the same numbers; the addon reports them and a test compares).

/** 12,288 slots of 512 bytes are 6 MiB: RLIMIT_MEMLOCK is 8 MiB by default and tickets need some. */
export const KEY_TABLE_SLOTS = 12_288
/** Batches being sealed in packed form at one moment; each holds an expanded key. */
export const TICKETS_MAX = 256
/** Parts of one packed batch: one bit each in an atomic word. */
export const BATCH_PARTS_MAX = 64
/** Key material of KMS keys kept open at once; the rest is opened again on use. */
export const KEY_MATERIAL_OPEN_MAX = 2_048
/** Private and HMAC keys kept open at once. OpenSSL holds each in some KiB of ordinary memory, so for a while only. */
export const KEY_OBJECTS_OPEN_MAX = 512
export const KEY_OBJECT_AGE_MS_MAX = 300_000

// Work with key pairs, on the event loop and on libuv's threads, of which there are four unless UV_THREADPOOL_SIZE says.

/** RSA keys that are made at once: each has a thread for a second or more. The other two are for what is short. */
export const RSA_GENERATIONS_MAX = 2
/** RSA_4096 takes 1.6 s on average (2 cores, OpenSSL 3.0): the last one waits half a minute, as long as clients do. */
export const RSA_GENERATIONS_WAITING_MAX = 32
/** Private keys that are used at once, and pairs of curves that are made: whatever waits for a thread waits for one. */
export const KEY_PAIR_USES_MAX = 2
/** Of RSA_4096, at 5 to 7 ms each, the last one waits 4 s. */
export const KEY_PAIR_USES_WAITING_MAX = 1_024

// The root key.

/** Shares of it that people keep: more than these nobody gathers. */
export const ROOT_KEY_SHARES_MAX = 16
/** Rows that one transaction of a rotation seals anew: some 10 ms, and what a crash repeats. */
export const ROOT_ROTATION_PAGE = 256

// Key stores in other systems.

/** A call to one, its second attempt included: what a caller still waits for. */
export const KEY_STORE_CALL_MS_DEFAULT = 5_000
export const KEY_STORE_CALL_MS_MAX = 60_000
/** Making a key in one: an RSA key takes seconds. */
export const KEY_STORE_CREATE_MS = 60_000
/** An ARN of AWS KMS has at most 2,048 characters. */
export const REMOTE_KEY_NAME_CHARACTERS_MAX = 2_048
/** Random 96-bit IVs allow 2^32 (SP 800-38D §8.3); half of it, for counts go to the catalog in blocks. */
export const RANDOM_IV_WRAPS_MAX = 2 ** 31
/** A wrapped key of 8 KiB in base64 in JSON, and what a server says about it besides. */
export const KEY_STORE_ANSWER_BYTES_MAX = 65_536
/** Connections that are kept to one: AWS KMS answers in some 10 ms, and a batch needs one call in 300 s. */
export const KEY_STORE_CONNECTIONS_MAX = 64
// Key stores of other systems: what stands between us and a slow or absent one.

/**
 * A call that takes longer is given up. A network HSM answers within milliseconds and AWS KMS gives external key stores
 * 250 ms; one that fails over takes a second or two.
 */
export const STORE_DEADLINE_MS_DEFAULT = 2_500
/** Making key material: an HSM looks for the primes of an RSA key for many seconds. */
export const STORE_MATERIAL_DEADLINE_MS = 60_000
/** Calls under way in one store. Eight connections to an XKS proxy did three times the calls of one. */
export const STORE_CALLS_MAX_DEFAULT = 8
/** Calls that wait for their turn: at 1,000 a second, a second. */
export const STORE_QUEUE_MAX_DEFAULT = 1_024
/** Failures in a row after which a store is not asked any more. */
export const STORE_FAILURES_MAX = 5
/** Then it is probed, first after this pause, and after each failure after twice as long. */
export const STORE_PROBE_PAUSE_MS_MIN = 500
export const STORE_PROBE_PAUSE_MS_MAX = 30_000
/** Readiness is asked for by anyone, and as often as they like: the store is probed for it no more often than this. */
export const STORE_PROBE_KEPT_MS = 1_000
/** After a refresh that failed, the next one; every lease in between would try otherwise. */
export const REFRESH_RETRY_MS = 1_000
/** Wraps that a process reserves at once: a kill wastes as many, and a store that does 20,000/s asks every 3 s. */
export const WRAPS_PER_RESERVATION = 2 ** 16
/** Versions of material whose reservation is remembered: one that is forgotten loses what is left of it. */
export const WRAP_BUDGETS_MAX = 65_536
/** At this share of the wraps that key material is good for it is rotated, or operators are told. */
export const WRAPS_ROTATE_SHARE = 0.8
// PKCS#11 tokens.

/** Sessions that asynchronous calls use at once, where nothing else is said. */
export const PKCS11_SESSIONS_DEFAULT = 8
/** Calls that wait for a token: 4 s of 1,000 a second, which a network HSM manages. */
export const PKCS11_CALLS_MAX = 4_096
/** A call into a module cannot be broken off; so long its caller waits. A new RSA key takes an HSM minutes. */
export const PKCS11_CALL_MS_MAX = 30_000
export const PKCS11_CREATE_MS_MAX = 300_000
/** Threads that may hang in a module: each holds what it was given for as long as its call does not return. */
export const PKCS11_HANGING_MAX = 2
/** One to find that something is broken, one that a mending by another call overtook, one that works, and one more. */
export const PKCS11_ATTEMPTS_MAX = 4
/** A mending that failed is tried again so soon, and ever later. */
export const PKCS11_MENDING_MS_MIN = 250
export const PKCS11_MENDING_MS_MAX = 10_000
/** Handles of keys that are remembered: looking one up takes the token milliseconds. */
export const PKCS11_HANDLES_MAX = 4_096
/** A command or file that gives a PIN. */
export const PIN_BYTES_MAX = 1_024
export const PIN_COMMAND_MS_MAX = 30_000

// The server.

/** Bytes of requests and responses held at one moment, beyond which callers are told 503. */
export const IN_FLIGHT_BYTES_DEFAULT = 768 * 2 ** 20
/** Work that a caller may wait for on the event loop; longer goes to a worker. */
export const INLINE_MICROSECONDS_MAX = 200
/** Tasks waiting for a worker. A task is a slice of a batch. */
export const POOL_QUEUE_MAX = 4_096

// Signed requests (AWS Signature Version 4).

/** How far a caller's clock may be off, either way: what AWS KMS allows. */
export const SIGNATURE_SKEW_MS_MAX = 300_000
/** The front end takes no more headers than these. Each name that a caller lists is looked up among them. */
export const SIGNED_HEADERS_MAX = 100
/** Lists of signed headers that are remembered: a client signs the same ones every time. */
export const SIGNED_HEADER_LISTS_MAX = 256
/** Derived signing keys, one for each access key, day and region in use: 32 bytes each. */
export const SIGNING_KEYS_MAX = 4_096

// External key stores (XKS Proxy API 1.0.3).

/** Of the path up to and with `/kms/xks/v1`, of a whole URI, and of the name of a key. */
export const XKS_PATH_CHARACTERS_MAX = 128
export const XKS_URI_CHARACTERS_MAX = 256
export const EXTERNAL_KEY_ID_CHARACTERS_MAX = 128
/** So that credentials can be changed without a gap: the old one and the new one. */
export const XKS_CREDENTIALS_PER_PREFIX_MAX = 2
/** A proxy has to take 4,300 bytes of plaintext and 8,192 of AAD; ours takes more of both. */
export const XKS_PLAINTEXT_BYTES_MAX = 8_192
export const XKS_AAD_BYTES_MAX = 16_384
/** Both as base64, and requestMetadata with ARNs of 2,048 characters. */
export const XKS_REQUEST_BYTES_MAX = 65_536
/** Errors have a text of fewer than 512 characters. */
export const XKS_ERROR_CHARACTERS_MAX = 511
/** How old the result of a health check may be: AWS allows a minute. */
export const XKS_HEALTH_AGE_MS_MAX = 30_000
/** AWS KMS gives a proxy 250 ms for a call, and so do we. */
export const XKS_DEADLINE_MS_DEFAULT = 250
/** Connections to a proxy. Eight made 2,900 calls a second on one machine; AWS allows 1,800 by default. */
export const XKS_SOCKETS_MAX = 32
/** The longest answer holds 4,096 bytes as base64. */
export const XKS_ANSWER_BYTES_MAX = 65_536

// The audit log.

/** Records that wait in memory while the sink is slow or full: 4 s of 60,000 requests/s, at about 250 bytes each. */
export const AUDIT_SPILL_RECORDS_DEFAULT = 2 ** 18
/** A file is finished at the first group past this size. A chain that was not closed is read to its end at the next start. */
export const AUDIT_FILE_BYTES_DEFAULT = 64 * 2 ** 20
/** One write and one fdatasync: 4,096 records of 700 bytes are 3 MiB. */
export const AUDIT_GROUP_RECORDS_MAX = 4_096
/**
 * Where nobody waits for the disk, a group gathers for so long: a kill -9 loses as much. Each group costs the event
 * loop about 20 µs, whatever is in it (Node 20).
 */
export const AUDIT_GATHER_MS = 20
/** A disk that has not taken a group by then is told apart from one that is only slow: callers get AUDIT_UNAVAILABLE. */
export const AUDIT_DEADLINE_MS = 5_000
/** How soon a group that the disk refused is tried again. */
export const AUDIT_RETRY_MS = 250
/** Zeros written ahead of the records, so that fdatasync has no file size to store with each group. */
export const AUDIT_PREALLOCATED_BYTES = 2 ** 20
/** The longest line that is read: 8 KiB of context and 256 key ARNs, each byte escaped, stay below. */
export const AUDIT_LINE_BYTES_MAX = 2 ** 20
/** A parameter of a management call, and how many of them one record holds. */
export const AUDIT_PARAMETER_CHARACTERS_MAX = 256
export const AUDIT_PARAMETERS_MAX = 16
/** Refused requests of callers who are nobody that are recorded: at 500 bytes each, 430 MB a day are filled at most. */
export const AUDIT_STRANGERS_BURST = 1_000
export const AUDIT_STRANGERS_PER_SECOND = 10
/** Use counts of key material go to the catalog so often: a kill -9 loses as much of them. */
export const KEY_USES_FLUSH_MS = 5_000

// Files and streams (AWS Encryption SDK message format).

/** Wrappings of one data key in a file. The SDK sets no bound by default; each may cost the reader a call to a KMS. */
export const ENCRYPTED_DATA_KEYS_DEFAULT = 8
/** The context and eight AWS blobs of 6,144 bytes stay below. */
export const HEADER_BYTES_MAX = 2 ** 16
/** Frames that we write: smaller ones are mostly overhead, larger ones cost every reader memory. */
export const FRAME_BYTES_MIN = 4_096
export const FRAME_BYTES_DEFAULT = 65_536
export const FRAME_BYTES_MAX = 2 ** 20
/** Frames that we read, and bodies that are not framed: nothing of one leaves before all of it is here. */
export const FRAME_BYTES_READ_MAX = 16 * 2 ** 20
/** Longer chunks of a stream are sealed or opened in pieces of so many bytes. */
export const FRAME_RUN_BYTES = 2 ** 20
/** From file to file: a thread's hand-over of 50 µs and more is paid for once in so many bytes. */
export const FILE_RUN_BYTES = 2 * FRAME_RUN_BYTES
/**
 * Runs of a file that are read at once, or wait to be worked on. Copying a run out of the page cache takes twice as
 * long as sealing it; Node has four threads for it.
 */
export const FILE_READS_AHEAD = 4
/** What is between reading and writing at one moment, plaintext and wire, besides what waits in the streams' ends. */
export const STREAM_WINDOW_BYTES = 64 * 2 ** 20
/** A signed message is held back as a whole until its signature verifies; longer ones are read from files, twice. */
export const SIGNED_BYTES_HELD_DEFAULT = 32 * 2 ** 20
/** 2^36 blocks under one derived key: an advantage of 2^-57 (draft-irtf-cfrg-aead-limits). */
export const STREAM_BYTES_MAX = 2 ** 40
/** A DER signature of P-384 has at most 104. */
export const SIGNATURE_BYTES_MAX = 128

// Streams through the server.

/** At once. Whatever they hold, a batch still fits beside it. */
export const SERVED_STREAMS_MAX = 256
/** What the front end reads at once, and no longer are the parts in which it hands over a body: fixed in it. */
const FRONT_END_READ_BYTES = 2 ** 19
/**
 * The receive buffer of a connection over TLS, of which Linux takes twice the figure: less than the front end reads at once
 * (see server/uws.ts), and below net.core.rmem_max where nobody has changed that.
 */
export const TLS_RECEIVE_BUFFER_BYTES = 192 * 2 ** 10
/** Memory for a part of a body. */
export const SERVED_RUN_BYTES = FRONT_END_READ_BYTES
/** What one holds: a part in the front end, what is made of it, and the beginning of a file, or of a frame, gathered. */
export const SERVED_STREAM_BYTES = 4 * SERVED_RUN_BYTES
/** What comes on top while it is busy, and is charged for as it comes: the kernel's buffer, however generous. */
export const SERVED_HELD_BYTES_MAX = 64 * 2 ** 20
/** Longer frames are charged for by themselves. */
export const SERVED_FRAME_BYTES_FREE = SERVED_RUN_BYTES / 4
/** Of a signed message nothing leaves before its end: it is held as a whole, and charged for. */
export const SERVED_SIGNED_BYTES_MAX = 16 * 2 ** 20

// Names and metadata, as AWS KMS bounds them.

export const ALIAS_CHARACTERS_MAX = 256
export const ALIASES_PER_KEY_MAX = 50
export const DESCRIPTION_CHARACTERS_MAX = 8_192
export const TAGS_MAX = 50
export const TAG_KEY_CHARACTERS_MAX = 128
export const TAG_VALUE_CHARACTERS_MAX = 256
export const LIST_PAGE_DEFAULT = 100
export const LIST_PAGE_MAX = 1_000

// The life of a key, as AWS KMS bounds it.

export const DAY_MS = 86_400_000
/** On-demand rotations of one key over its life; automatic ones do not count. */
export const ROTATIONS_ON_DEMAND_MAX = 25
export const ROTATION_PERIOD_DAYS_MIN = 90
export const ROTATION_PERIOD_DAYS_MAX = 2_560
export const ROTATION_PERIOD_DAYS_DEFAULT = 365
/** So shortly before an automatic rotation none is made on demand. */
export const ROTATION_CONFLICT_MS = 1_200_000
export const PENDING_WINDOW_DAYS_MIN = 7
export const PENDING_WINDOW_DAYS_MAX = 30
export const PENDING_WINDOW_DAYS_DEFAULT = 30
/** Due work is looked for at least so often: clocks jump, other nodes change keys, and what failed is tried again. */
export const SCHEDULER_RECHECK_MS = 60_000
/** Keys of due work that are read at once. */
export const SCHEDULER_PAGE = 256

// Imported key material, as AWS KMS bounds it.

/** How long a wrapping key and its token are good for. */
export const IMPORT_PARAMETERS_AGE_MS = DAY_MS
/** So long an expired token is told apart from one that never was. */
export const IMPORT_PARAMETERS_KEPT_MS = DAY_MS
/** Each is a sealed private key of some 2 KiB, and took as long to make as an RSA key takes. */
export const IMPORT_PARAMETERS_PER_KEY_MAX = 100
export const IMPORTED_VALIDITY_DAYS_MAX = 365

// A catalog that several nodes share.

/** Connections of one node: its changes come one after the other anyway, and PostgreSQL has 100 by default. */
export const CATALOG_CONNECTIONS_MAX = 8
export const CATALOG_CONNECT_MS_MAX = 3_000
export const CATALOG_STATEMENT_MS_MAX = 10_000
/** Changes take turns, so that whoever holds the lock keeps all others waiting. */
export const CATALOG_LOCK_MS_MAX = 8_000
/** A node that stops within a change ends every other node's changes for so long. */
export const CATALOG_IDLE_TRANSACTION_MS_MAX = 5_000
/** The server ends the session of a node that it has not heard of for so long. */
export const CATALOG_PEER_GONE_MS_MAX = 15_000
/** A node asks so often what has changed: a change is in force everywhere after about as long. */
export const CATALOG_POLL_MS = 200
/** So long after the start of a poll a node acts on what it read; beyond that it serves nothing. */
export const CATALOG_LEASE_MS = 1_000
/** A lease that was not renewed for so long is out, by the clock of anybody: quartz is off by 0.01 %, and never 10 %. */
export const CATALOG_LEASE_OVER_MS = 1_100
/** How often whoever waits for the others looks whether they have confirmed. */
export const CATALOG_ACKNOWLEDGE_MS = 10
/** Nodes that come, lag and go while one waits; then the caller is told that it is not known. */
export const CATALOG_ACKNOWLEDGE_MS_MAX = 8_000
/** Rows that are gone are remembered for so many changes; a node that lags further behind reads everything again. */
export const CATALOG_REMOVALS_KEPT = 100_000
/** Longest time that a key may be served for without the catalog: a key's owner asks for it, by a tag. */
export const SERVED_ALONE_SECONDS_MAX = 86_400
/** A transaction that lost against another one is tried again for so long, each time after a longer wait. */
export const CATALOG_RETRYING_MS_MAX = 8_000
export const CATALOG_RETRY_MS = 10
export const CATALOG_RETRY_MS_MAX = 500
/** Changes of one node take turns; at some milliseconds each, more than these would outlast whoever asked for them. */
export const CATALOG_CHANGES_WAITING_MAX = 1_000
// Key stores beside the local one.

/** AWS KMS: ten of them in an account and region. */
export const KEY_STORES_MAX = 10
export const KEY_STORE_NAME_CHARACTERS_MAX = 256
/** Settings and their names are sealed in with the secret, and stand in one row. */
export const KEY_STORE_SETTING_CHARACTERS_MAX = 5_000
/** The longest of them is a token; a PIN has 32 characters, an XKS secret 64. */
export const KEY_STORE_SECRET_BYTES_MAX = 8_192
/** An HSM that answers at all opens its sessions in seconds. */
export const KEY_STORE_CONNECT_MS_MAX = 60_000
/** Pauses between attempts to connect again after a start: doubled from the first to the last. */
export const KEY_STORE_RETRY_MS_MIN = 500
export const KEY_STORE_RETRY_MS_MAX = 60_000

// Policies and grants.

/** AWS KMS: a key policy document has at most 32 kilobytes. */
export const POLICY_BYTES_MAX = 32_768
/** IAM attaches ten managed policies to a user or role by default. */
export const IDENTITY_POLICIES_PER_PRINCIPAL_MAX = 10
/** AWS KMS. */
export const GRANTS_PER_KEY_MAX = 50_000
export const GRANT_CONSTRAINT_PAIRS_MAX = 8
export const GRANT_CONSTRAINT_VALUE_CHARACTERS_MAX = 384
/** Decisions remembered; a few hundred bytes each, and what is forgotten is worked out again. */
export const DECISIONS_MAX = 65_536

assert(MESSAGE_KEY_AGE_MS_DEFAULT <= MESSAGE_KEY_AGE_MS_MAX)
assert(IN_PROCESS_KEY_AGE_MS_DEFAULT <= MESSAGE_KEY_AGE_MS_DEFAULT)
assert(MESSAGE_KEY_MESSAGES_DEFAULT <= MESSAGE_KEY_MESSAGES_MAX)
assert(MESSAGE_KEY_BYTES_DEFAULT <= MESSAGE_KEY_BYTES_MAX)
assert(MESSAGE_KEY_BYTES_MAX + BATCH_MESSAGES_MAX * MESSAGE_BYTES_MAX <= Number.MAX_SAFE_INTEGER)
assert(BATCH_MESSAGES_MAX <= MESSAGE_KEY_MESSAGES_DEFAULT)
assert(RSA_GENERATIONS_MAX + KEY_PAIR_USES_MAX <= 4)
assert(STORE_DEADLINE_MS_DEFAULT < STORE_MATERIAL_DEADLINE_MS)
assert(STORE_PROBE_PAUSE_MS_MIN <= STORE_PROBE_PAUSE_MS_MAX)
// A refresh that fails has many more chances before the key in use is too old.
assert(REFRESH_RETRY_MS < (MESSAGE_KEY_AGE_MS_DEFAULT * (1 - MESSAGE_KEY_REFRESH_SHARE)) / 10)
assert(ROTATION_CONFLICT_MS < ROTATION_PERIOD_DAYS_MIN * DAY_MS)
assert(KEY_STORE_CALL_MS_DEFAULT <= KEY_STORE_CALL_MS_MAX)
assert(2 * (XKS_PLAINTEXT_BYTES_MAX + XKS_AAD_BYTES_MAX) < XKS_REQUEST_BYTES_MAX)
// Its length is a u16 of our AAD.
assert(XKS_AAD_BYTES_MAX < 2 ** 16)
assert(2 * CALLER_PLAINTEXT_BYTES_MAX < XKS_ANSWER_BYTES_MAX)
assert(XKS_HEALTH_AGE_MS_MAX < 60_000)
assert(CATALOG_POLL_MS * 3 < CATALOG_LEASE_MS)
assert(CATALOG_LEASE_MS * 1.1 <= CATALOG_LEASE_OVER_MS)
assert(CATALOG_LEASE_OVER_MS < CATALOG_ACKNOWLEDGE_MS_MAX)
assert(CATALOG_IDLE_TRANSACTION_MS_MAX < CATALOG_LOCK_MS_MAX)
assert(CATALOG_LOCK_MS_MAX < CATALOG_STATEMENT_MS_MAX)
assert(CATALOG_RETRYING_MS_MAX < CATALOG_STATEMENT_MS_MAX)
// setTimeout takes 31 bits.
assert(SCHEDULER_RECHECK_MS < 2 ** 31)
assert(MESSAGE_BYTES_MAX < REQUEST_BYTES_MAX_DEFAULT)
assert(AUDIT_GROUP_RECORDS_MAX < AUDIT_SPILL_RECORDS_DEFAULT)
assert(AUDIT_GATHER_MS < AUDIT_RETRY_MS)
assert(AUDIT_RETRY_MS < AUDIT_DEADLINE_MS)
// Each byte of a context may become six of JSON.
assert(6 * CONTEXT_BYTES_MAX + KEY_ENTRIES_MAX * 512 < AUDIT_LINE_BYTES_MAX)
assert(AUDIT_LINE_BYTES_MAX < AUDIT_FILE_BYTES_DEFAULT)
assert(CONTEXT_BYTES_MAX + ENCRYPTED_DATA_KEYS_DEFAULT * (6_144 + 512) < HEADER_BYTES_MAX)
assert(FRAME_BYTES_MAX <= FRAME_BYTES_READ_MAX)
// One frame as it comes, and its plaintext, twice.
assert(4 * FRAME_BYTES_READ_MAX <= STREAM_WINDOW_BYTES)
assert(
  SERVED_STREAMS_MAX * SERVED_STREAM_BYTES + REQUEST_BYTES_MAX_DEFAULT < IN_FLIGHT_BYTES_DEFAULT,
)
// The front end hands over whole what it has read, where that does not fill its buffer.
assert(2 * TLS_RECEIVE_BUFFER_BYTES < FRONT_END_READ_BYTES)
// Nothing of a part is read any more once a conversion waits.
assert(SERVED_RUN_BYTES <= FRAME_RUN_BYTES)
// Sequence numbers have 32 bits.
assert(STREAM_BYTES_MAX / FRAME_BYTES_MIN < 2 ** 32)
assert(2 * REQUEST_BYTES_MAX_DEFAULT < IN_FLIGHT_BYTES_DEFAULT)
assert(2 * DATA_KEY_CACHE_ENTRIES_DEFAULT + KEY_MATERIAL_OPEN_MAX < KEY_TABLE_SLOTS)
