/*
 * viproute: puts service VIPs on a Linux link, each in its single-route state. Generated from the
 * Rust sources: do not edit.
 *
 * Errors. A call that can fail returns a viproute_code: VIPROUTE_CODE_OK, which is 0, or why it
 * failed. It takes a place for an error object, which has the code, the errno and a message. On
 * failure the call puts an error there, which the caller owns and frees by viproute_error_free;
 * otherwise it puts NULL there. Pass NULL if you need no error object.
 *
 * Reports. A call that writes takes a place for a report. If the call came to its VIPs, also if it
 * failed, it puts a report there, which the caller owns and frees by viproute_report_free; otherwise
 * it puts NULL there. Pass NULL if you need no report. A call overwrites both places, and frees
 * nothing that they pointed to.
 *
 * NULL. A NULL handle, configuration, claim or source is VIPROUTE_CODE_INVALID_ARGUMENT, never a
 * crash. Functions that read an object return 0, -1 or NULL for NULL, as each says. Every free
 * function takes NULL.
 *
 * Threads. Any function may be called from any thread. Calls with one manager, keeper or watcher
 * wait for each other, except viproute_cancel, viproute_keeper_cancel, viproute_keeper_fd and
 * viproute_watcher_fd, which never wait. Reports, audits, plans, statuses and errors never change.
 * The caller ensures that no thread uses an object that another thread frees, and that no object is
 * freed twice.
 *
 * Ownership. A call only reads the arrays, strings and structs that it is given, and only until it
 * returns. A string that a function returns belongs to the object that the function was called
 * with, and lives as long as the object; names and the version live as long as the program.
 *
 * Forks. A handle belongs to the process that opened it: in a child, calls fail with
 * VIPROUTE_CODE_OTHER_PROCESS.
 *
 * Structs. A function that fills a struct takes the struct's size, so that structs can grow: fields
 * that the caller's header does not have are left out, and fields that the library does not have
 * are 0.
 */


#ifndef VIPROUTE_H
#define VIPROUTE_H

#include <stddef.h>
#include <stdint.h>

// An audit of the link.
#define VIPROUTE_AUDIT_LINK 0

// An audit of the link and of the node's other routes.
#define VIPROUTE_AUDIT_NODE 1

// Each VIP has an address on the link, and its route: `"binding": "address"`.
#define VIPROUTE_BINDING_ADDRESS 0

// Each VIP has its route alone: `"binding": "route"`.
#define VIPROUTE_BINDING_ROUTE 1

// The VIP's address is not on the link.
#define VIPROUTE_DRIFT_MISSING_ADDRESS 1

// The address has another prefix length than /32 or /128.
#define VIPROUTE_DRIFT_WRONG_PREFIX_LENGTH (1 << 1)

// Duplicate address detection has not ended.
#define VIPROUTE_DRIFT_TENTATIVE (1 << 2)

// Duplicate address detection found the address on another node.
#define VIPROUTE_DRIFT_DAD_FAILED (1 << 3)

// The kernel's prefix route of the address is in table main.
#define VIPROUTE_DRIFT_PREFIX_ROUTE (1 << 4)

// The kernel's own local route exists.
#define VIPROUTE_DRIFT_KERNEL_LOCAL_ROUTE (1 << 5)

// The desired route is missing.
#define VIPROUTE_DRIFT_MISSING_ROUTE (1 << 6)

// The VIP's route has another preferred source, or none.
#define VIPROUTE_DRIFT_WRONG_SOURCE (1 << 7)

// The VIP's route has another protocol.
#define VIPROUTE_DRIFT_WRONG_PROTOCOL (1 << 8)

// A second route leads to the VIP through the link.
#define VIPROUTE_DRIFT_DUPLICATE (1 << 9)

// A route exists without the address.
#define VIPROUTE_DRIFT_STALE (1 << 10)

// Another device holds a local route for the VIP.
#define VIPROUTE_DRIFT_CONFLICT (1 << 11)

// The address is on the link, though VIPs are bound by routes only.
#define VIPROUTE_DRIFT_UNWANTED_ADDRESS (1 << 12)

// Another table has a route to the VIP through the link. Deep audits only.
#define VIPROUTE_DRIFT_OTHER_TABLE (1 << 13)

// The VIP could not be read. A flag that is not set may apply, too.
#define VIPROUTE_DRIFT_UNREAD (1 << 14)

// The address has a finite valid lifetime.
#define VIPROUTE_DRIFT_EXPIRING_ADDRESS (1 << 15)

// The VIP's route has a lifetime.
#define VIPROUTE_DRIFT_EXPIRING_ROUTE (1 << 16)

// An earlier routing rule sends the node's traffic elsewhere. Deep audits only.
#define VIPROUTE_DRIFT_DIVERTED (1 << 20)

// The VIP's address was added to the link, or its flags or lifetimes changed.
#define VIPROUTE_CHANGE_ADDRESS_SET 1

// The VIP's address was removed from the link.
#define VIPROUTE_CHANGE_ADDRESS_REMOVED (1 << 1)

// A route to the VIP through the link was added or replaced.
#define VIPROUTE_CHANGE_ROUTE_SET (1 << 2)

// A route to the VIP through the link was removed.
#define VIPROUTE_CHANGE_ROUTE_REMOVED (1 << 3)

// Another device's local route to the VIP was added, replaced or removed.
#define VIPROUTE_CHANGE_FOREIGN_ROUTE (1 << 4)

// The change was made by the manager that the watcher was opened with.
#define VIPROUTE_ORIGIN_OURS 1

// The change was made by another process, or by another socket of this process.
#define VIPROUTE_ORIGIN_OTHER (1 << 1)

// The change was made by the kernel itself.
#define VIPROUTE_ORIGIN_KERNEL (1 << 2)

// The kernel does not say who made the change.
#define VIPROUTE_ORIGIN_UNKNOWN (1 << 3)

// The state of the link for the VIPs of one family.
typedef enum {
  // A state that this library does not know.
  VIPROUTE_LINK_STATE_UNKNOWN = 0,
  // The link is up, and the family works on it.
  VIPROUTE_LINK_STATE_UP = 1,
  // The link is down.
  VIPROUTE_LINK_STATE_DOWN = 2,
  // The link is enslaved to a VRF.
  VIPROUTE_LINK_STATE_IN_VRF = 3,
  // IPv6 is disabled on the link.
  VIPROUTE_LINK_STATE_IPV6_DISABLED = 4,
  // The link has no IPv6, because its MTU is below 1280.
  VIPROUTE_LINK_STATE_MTU_TOO_SMALL = 5,
  // The kernel has no IPv6.
  VIPROUTE_LINK_STATE_IPV6_UNSUPPORTED = 6,
} viproute_link_state;

// The state of the source of one family.
typedef enum {
  // A state that this library does not know.
  VIPROUTE_SOURCE_STATE_UNKNOWN = 0,
  // The source is an address of the node.
  VIPROUTE_SOURCE_STATE_PRESENT = 1,
  // Duplicate address detection has not ended.
  VIPROUTE_SOURCE_STATE_TENTATIVE = 2,
  // Duplicate address detection found the source on another node.
  VIPROUTE_SOURCE_STATE_DAD_FAILED = 3,
  // The source is on a link that is down.
  VIPROUTE_SOURCE_STATE_LINK_DOWN = 4,
  // The source is no address of the node.
  VIPROUTE_SOURCE_STATE_MISSING = 5,
  // No source is configured.
  VIPROUTE_SOURCE_STATE_NOT_GIVEN = 6,
  // The family keeps the kernel's route.
  VIPROUTE_SOURCE_STATE_KERNEL = 7,
} viproute_source_state;

// What became of a call: 0, or why it failed. Later versions may add codes.
typedef enum {
  // The call did all that it was asked for.
  VIPROUTE_CODE_OK = 0,
  // An argument is NULL that must not be, a VIP has an unknown family, or a length is
  // impossible. Nothing was done.
  VIPROUTE_CODE_INVALID_ARGUMENT = 1,
  // A fault of the library stopped the call. The handle can only be freed.
  VIPROUTE_CODE_PANIC = 2,
  // Some VIPs failed: the report has them. The other VIPs are verified.
  VIPROUTE_CODE_INCOMPLETE = 3,
  // The call was cancelled. The report, if there is one, says what was done.
  VIPROUTE_CODE_CANCELLED = 4,
  // The configuration or the claim cannot work as given.
  VIPROUTE_CODE_INVALID_CONFIG = 5,
  // The desired set is empty, or has no VIP of a family.
  VIPROUTE_CODE_EMPTY_SET = 6,
  // More VIPs would be released than the claim's `at_most` allows. Nothing was written.
  VIPROUTE_CODE_TOO_MANY_RELEASES = 7,
  // The file is no network namespace.
  VIPROUTE_CODE_INVALID_NETNS = 8,
  // The link does not exist.
  VIPROUTE_CODE_LINK_NOT_FOUND = 9,
  // The link is down.
  VIPROUTE_CODE_LINK_DOWN = 10,
  // The link is enslaved to a VRF.
  VIPROUTE_CODE_LINK_IN_VRF = 11,
  // The link has no IPv6.
  VIPROUTE_CODE_IPV6_DISABLED = 12,
  // A source is no address of this node.
  VIPROUTE_CODE_SOURCE_NOT_ON_NODE = 13,
  // Duplicate address detection of a source has not ended, or has failed.
  VIPROUTE_CODE_SOURCE_TENTATIVE = 14,
  // The table of address labels has another entry in the place.
  VIPROUTE_CODE_LABEL_CONFLICT = 15,
  // The process lacks CAP_NET_ADMIN or CAP_SYS_ADMIN.
  VIPROUTE_CODE_PERMISSION_DENIED = 16,
  // The handle was opened before a fork, in the parent process.
  VIPROUTE_CODE_OTHER_PROCESS = 17,
  // The operating system failed in another way: see errno and the message.
  VIPROUTE_CODE_SYSTEM = 18,
  // The keeper's thread has ended. The message says why. Only a Rust program meets this code.
  VIPROUTE_CODE_KEEPER_STOPPED = 19,
} viproute_code;

// What a call did for a VIP.
typedef enum {
  // Nothing.
  VIPROUTE_OUTCOME_KIND_NONE = 0,
  // The VIP was not on the link.
  VIPROUTE_OUTCOME_KIND_ASSIGNED = 1,
  // The VIP was on the link, and had drifted.
  VIPROUTE_OUTCOME_KIND_REPAIRED = 2,
  // The VIP was removed.
  VIPROUTE_OUTCOME_KIND_RELEASED = 3,
} viproute_outcome_kind;

// Why one VIP is not as desired. Later versions may add causes.
typedef enum {
  // A cause that this library does not know.
  VIPROUTE_CAUSE_UNKNOWN = 0,
  // The address cannot be a VIP: `reason` says why.
  VIPROUTE_CAUSE_REJECTED = 1,
  // The VIP's family lacks something: `missing` says what.
  VIPROUTE_CAUSE_MISSING = 2,
  // Another device, or a route that a deletion could hit, stands in the place of the desired
  // route.
  VIPROUTE_CAUSE_CONFLICT = 3,
  // The address is on the link with another prefix length.
  VIPROUTE_CAUSE_OTHER_PREFIX_LENGTH = 4,
  // Duplicate address detection found the VIP in use on another node.
  VIPROUTE_CAUSE_DAD_FAILED = 5,
  // The VIP's routes are on the link without its address.
  VIPROUTE_CAUSE_STALE_ROUTE = 6,
  // The VIP's address has a finite valid lifetime.
  VIPROUTE_CAUSE_EXPIRING_ADDRESS = 7,
  // The VIP is not on the link, and the call adds none.
  VIPROUTE_CAUSE_NOT_ON_LINK = 8,
  // The kernel refused an operation: `operation` and `error_number` say which and why.
  VIPROUTE_CAUSE_KERNEL = 9,
  // The kernel did not finish in time. The same call later continues.
  VIPROUTE_CAUSE_PENDING = 10,
  // Another writer kept undoing what the call did.
  VIPROUTE_CAUSE_CONTENDED = 11,
  // The VIP could not be read, because other writers kept changing the tables.
  VIPROUTE_CAUSE_UNREAD = 12,
  // The call ended before it came to this VIP. The same call later continues.
  VIPROUTE_CAUSE_NOT_REACHED = 13,
} viproute_cause;

// Why an address cannot be a VIP.
typedef enum {
  // The VIP was not rejected, or for a reason that this library does not know.
  VIPROUTE_REJECT_REASON_NONE = 0,
  // `::`, or an address in 0.0.0.0/8.
  VIPROUTE_REJECT_REASON_UNSPECIFIED = 1,
  // In 127.0.0.0/8, or `::1`.
  VIPROUTE_REJECT_REASON_LOOPBACK = 2,
  // A multicast address.
  VIPROUTE_REJECT_REASON_MULTICAST = 3,
  // A link-local address.
  VIPROUTE_REJECT_REASON_LINK_LOCAL = 4,
  // 255.255.255.255.
  VIPROUTE_REJECT_REASON_BROADCAST = 5,
  // An IPv4-mapped IPv6 address.
  VIPROUTE_REJECT_REASON_V4_MAPPED = 6,
  // A source of this manager.
  VIPROUTE_REJECT_REASON_IS_SOURCE = 7,
  // Outside every allowed range.
  VIPROUTE_REJECT_REASON_OUTSIDE_ALLOWED = 8,
  // In a denied range.
  VIPROUTE_REJECT_REASON_DENIED = 9,
  // No source of its family is configured.
  VIPROUTE_REJECT_REASON_NO_SOURCE = 10,
} viproute_reject_reason;

// A change that the kernel was asked for.
typedef enum {
  // No operation failed, or an operation that this library does not know.
  VIPROUTE_OPERATION_NONE = 0,
  // Add the VIP's address.
  VIPROUTE_OPERATION_ADD_ADDRESS = 1,
  // Make the VIP's address permanent.
  VIPROUTE_OPERATION_UPDATE_ADDRESS = 2,
  // Delete the VIP's address.
  VIPROUTE_OPERATION_DELETE_ADDRESS = 3,
  // Add the desired route.
  VIPROUTE_OPERATION_ADD_ROUTE = 4,
  // Replace a route by the desired route.
  VIPROUTE_OPERATION_REPLACE_ROUTE = 5,
  // Delete a route.
  VIPROUTE_OPERATION_DELETE_ROUTE = 6,
} viproute_operation;

// What a watcher saw.
typedef enum {
  // Nothing has happened.
  VIPROUTE_EVENT_KIND_NONE = 0,
  // A VIP changed. Several changes of one VIP in one burst are one event.
  VIPROUTE_EVENT_KIND_VIP = 1,
  // An address of the node outside the link was added or changed: perhaps a source.
  VIPROUTE_EVENT_KIND_NODE_ADDRESS_SET = 2,
  // An address of the node outside the link was removed: perhaps a source.
  VIPROUTE_EVENT_KIND_NODE_ADDRESS_REMOVED = 3,
  // The link exists and is up.
  VIPROUTE_EVENT_KIND_LINK_UP = 4,
  // The link exists and is down.
  VIPROUTE_EVENT_KIND_LINK_DOWN = 5,
  // The link does not exist any more.
  VIPROUTE_EVENT_KIND_LINK_GONE = 6,
  // Notifications were lost: audit or reconcile.
  VIPROUTE_EVENT_KIND_RESYNC = 7,
} viproute_event_kind;

// The observed state of the VIPs on the link. Immutable, so several threads may read it at once.
typedef struct viproute_audit_result viproute_audit_result;

// Why a call failed. Immutable, so several threads may read it at once.
typedef struct viproute_error viproute_error;

// Holds a desired set of VIPs on the link, and repairs what drifts. Several threads may call with
// one keeper; the calls are carried out one after another.
typedef struct viproute_keeper viproute_keeper;

// Holds VIPs of one link in their single-route state. Several threads may call with one manager;
// the calls are carried out one after another.
typedef struct viproute_manager viproute_manager;

// What a call would do. Immutable, so several threads may read it at once.
typedef struct viproute_plan_result viproute_plan_result;

// What a call did, VIP by VIP. Immutable, so several threads may read it at once.
typedef struct viproute_report viproute_report;

// How a keeper does. Immutable, so several threads may read it at once.
typedef struct viproute_status viproute_status;

// Returns what happens to the VIPs of a link. Several threads may call with one watcher; each event
// goes to one of them. The watcher reads several events at once, and those do not wake another thread's
// poll(2).
typedef struct viproute_watcher viproute_watcher;

// The state of the link and of the sources, on which all VIPs depend.
typedef struct {
  // How many VIPs are on the link.
  uint64_t vips;
  // How many VIPs have drifted.
  uint64_t drifted;
  // 1 if no VIP has drifted, every VIP was judged, and link and sources serve the VIPs.
  uint32_t is_clean;
  // The link, for IPv4.
  viproute_link_state link_ipv4;
  // The link, for IPv6.
  viproute_link_state link_ipv6;
  // The IPv4 source.
  viproute_source_state source_ipv4;
  // The IPv6 source.
  viproute_source_state source_ipv6;
} viproute_audit_state;

// An address in network byte order, as `inet_pton(family, text, vip.address)` writes it.
typedef struct {
  // AF_INET or AF_INET6.
  uint8_t family;
  // IPv4: the first four bytes, the others do not matter.
  uint8_t address[16];
} viproute_vip;

// The observed state of one VIP.
typedef struct {
  // The VIP.
  viproute_vip vip;
  // How it differs from its single-route state: flags VIPROUTE_DRIFT_*, or 0.
  uint32_t drift;
  // 0 if the VIP's source could not be judged, because none is configured.
  uint32_t is_judged;
} viproute_audited;

// What a dispatch said beside its report.
typedef struct {
  // 1 if more is due at once: dispatch again.
  uint32_t more;
  // 1 if something was written, a failure began, changed or ended, something else is missing or
  // refused than before, or this is the first dispatch after an order.
  uint32_t has_news;
  // How many failures of the report are new.
  uint64_t new_failures;
  // How many failures ended.
  uint64_t recovered;
  // What both families lack, or VIPROUTE_CODE_OK.
  viproute_code missing_link;
  // What IPv4 lacks, or VIPROUTE_CODE_OK.
  viproute_code missing_ipv4;
  // What IPv6 lacks, or VIPROUTE_CODE_OK.
  viproute_code missing_ipv6;
  // Why claimed VIPs that are not desired are not released, or VIPROUTE_CODE_OK.
  viproute_code refused;
} viproute_dispatched;

// What a keeper has done so far. No counter ever decreases.
typedef struct {
  // Notifications that concerned the link, its VIPs or the sources.
  uint64_t events;
  // VIPs that the keeper looked at one by one.
  uint64_t looks;
  // Desired VIPs that were already as desired when the keeper first looked at them.
  uint64_t adopted;
  // VIPs that something was written for.
  uint64_t repairs;
  // VIPs that were released.
  uint64_t released;
  // VIPs that began to fail, or to fail for another reason.
  uint64_t failures;
  // Times that the whole link was read.
  uint64_t resyncs;
  // Repairs that were put off, because the VIP had been repaired too often.
  uint64_t backoffs;
} viproute_counters;

// How many VIPs a call served, and how.
typedef struct {
  // VIPs that were not on the link.
  uint64_t assigned;
  // VIPs that were on the link, and had drifted.
  uint64_t repaired;
  // VIPs that were removed.
  uint64_t released;
  // VIPs that were already as desired.
  uint64_t unchanged;
  // Messages that write, sent to the kernel.
  uint64_t writes;
  // Steps that were repeated.
  uint64_t retries;
  // How many outcomes the report has: one for each assigned, repaired or released VIP.
  uint64_t outcomes;
  // How many failures the report has.
  uint64_t failures;
} viproute_counts;

// A VIP that a call brought into the desired state.
typedef struct {
  // The VIP.
  viproute_vip vip;
  // What was done.
  viproute_outcome_kind kind;
  // The drift that a repair ended: flags VIPROUTE_DRIFT_*.
  uint32_t cured;
} viproute_outcome;

// A VIP that is not in the desired state, and why.
typedef struct {
  // The VIP.
  viproute_vip vip;
  // Why it failed.
  viproute_cause cause;
  // Why it was rejected, if it was.
  viproute_reject_reason reason;
  // What its family lacks, if the cause is VIPROUTE_CAUSE_MISSING; else VIPROUTE_CODE_OK.
  viproute_code missing;
  // The operation that failed.
  viproute_operation operation;
  // The kernel's errno, or 0.
  int error_number;
  // What the call had begun to do for the VIP.
  viproute_outcome_kind begun;
  // How the VIP differed when it was last seen: flags VIPROUTE_DRIFT_*.
  uint32_t drift;
  // The failure in words, with the VIP. The report owns the text.
  const char *message;
} viproute_failure;

// The gauges of a keeper. Times are in milliseconds, and -1 for never.
typedef struct {
  // How long ago the keeper last read the whole link.
  int64_t last_full_sync;
  // How long ago the last dispatch without an error ended.
  int64_t last_dispatch;
  // How many IPv4 VIPs are desired.
  uint64_t desired_ipv4;
  // How many IPv6 VIPs are desired.
  uint64_t desired_ipv6;
  // How many IPv4 VIPs fail.
  uint64_t failing_ipv4;
  // How many IPv6 VIPs fail.
  uint64_t failing_ipv6;
  // How long ago the keeper last looked at IPv4 VIPs and left none failing.
  int64_t last_success_ipv4;
  // How long ago the keeper last looked at IPv6 VIPs and left none failing.
  int64_t last_success_ipv6;
  // What IPv4 waits for, or VIPROUTE_CODE_OK.
  viproute_code missing_ipv4;
  // What IPv6 waits for, or VIPROUTE_CODE_OK.
  viproute_code missing_ipv6;
  // How long IPv4 has waited for it, or -1.
  int64_t waiting_ipv4;
  // How long IPv6 has waited for it, or -1.
  int64_t waiting_ipv6;
} viproute_keeper_state;

// Something that happened.
typedef struct {
  // What happened. VIPROUTE_EVENT_KIND_NONE: nothing.
  viproute_event_kind kind;
  // The VIP, or the address of the node. An event of the link has none: the family is 0.
  viproute_vip address;
  // What changed of the VIP: flags VIPROUTE_CHANGE_*.
  uint32_t change;
  // Who changed the VIP: flags VIPROUTE_ORIGIN_*.
  uint32_t origin;
  // The index of the link that is up or down, else 0.
  uint32_t index;
} viproute_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, as "0.1.0". Lives as long as the program.
const char *viproute_version(void);

// Copies the audit's summary to `*summary`. `size` is `sizeof *summary`. NULL as `summary`: does
// nothing. NULL as `audit`: every field is 0.
void viproute_audit_summary(const viproute_audit_result *audit,
                            viproute_audit_state *summary,
                            size_t size);

// Copies at most `count` VIPs, from the VIP number `first` on, to the array `vips`. They are in
// the order of their addresses, IPv4 first. `size` is `sizeof *vips`. Returns how many were
// copied. NULL as `audit` or `vips`: 0.
size_t viproute_audit_vips(const viproute_audit_result *audit,
                           size_t first,
                           viproute_audited *vips,
                           size_t size,
                           size_t count);

// The audit as JSON, as the library's feature `serde` defines it. The audit owns the text. NULL:
// NULL.
const char *viproute_audit_json(const viproute_audit_result *audit);

// Frees an audit and its JSON. NULL: does nothing.
void viproute_audit_free(viproute_audit_result *audit);

// The code that the call returned. NULL: VIPROUTE_CODE_OK.
viproute_code viproute_error_code(const viproute_error *error);

// The kernel's errno, or 0 if the error did not come from the kernel. NULL: 0.
int viproute_error_errno(const viproute_error *error);

// The error in words, for people. The error owns the text. NULL: NULL.
const char *viproute_error_message(const viproute_error *error);

// Frees an error and its message. NULL: does nothing.
void viproute_error_free(viproute_error *error);

// Opens a keeper, by a configuration as for viproute_open and a claim as for viproute_reconcile.
// Writes nothing to the kernel. The keeper has no desired VIP yet. On success the caller owns
// `*keeper`, and frees it by viproute_keeper_free. On failure `*keeper` is NULL. NULL as `config`,
// `claim` or `keeper`: VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_keeper_open(const char *config,
                                   const char *claim,
                                   viproute_keeper **keeper,
                                   viproute_error **error);

// Frees a keeper, and closes its descriptor. The VIPs stay. No other thread may use the keeper
// during this call or after it. Reports and errors of the keeper stay valid. NULL: does nothing.
void viproute_keeper_free(viproute_keeper *keeper);

// As viproute_cancel: cancels the keeper's running dispatch, or else the next dispatch that looks
// at VIPs. Does not make the keeper's descriptor readable. NULL: does nothing.
void viproute_keeper_cancel(const viproute_keeper *keeper);

// Sets the VIPs to keep from now on. The next dispatch assigns and releases. An empty set keeps
// nothing and releases nothing. `vips` points to `count` VIPs; if `count` is 0, `vips` does not
// matter.
viproute_code viproute_keeper_set(viproute_keeper *keeper,
                                  const viproute_vip *vips,
                                  size_t count,
                                  viproute_error **error);

// Keeps these VIPs from now on, too. `vips` as for viproute_keeper_set.
viproute_code viproute_keeper_add(viproute_keeper *keeper,
                                  const viproute_vip *vips,
                                  size_t count,
                                  viproute_error **error);

// Keeps these VIPs no longer, and releases them, also the last one. The claim and its `at_most` do
// not stop it. VIPs that are not desired are ignored. `vips` as for viproute_keeper_set.
viproute_code viproute_keeper_remove(viproute_keeper *keeper,
                                     const viproute_vip *vips,
                                     size_t count,
                                     viproute_error **error);

// Changes the source of its family. The next dispatch moves the VIPs, each in place. `source`
// points to one address. NULL: VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_keeper_set_source(viproute_keeper *keeper,
                                         const viproute_vip *source,
                                         viproute_error **error);

// The keeper's descriptor, for poll(2) and epoll(7). Wait until it is readable or the deadline has
// come, then dispatch. The keeper owns the descriptor: never read it nor close it. The same as
// long as the keeper lives. NULL: -1.
int viproute_keeper_fd(const viproute_keeper *keeper);

// In how many milliseconds to dispatch even if the descriptor is not readable: the timeout of
// poll(2). 0: now. -1: never. NULL: -1. Waits for a call of another thread.
int viproute_keeper_deadline(const viproute_keeper *keeper);

// Takes what has happened and repairs what is due, at most `max_vips` (but at least one) of the
// VIPs that drifted one by one. Waits for no event, only for the kernel to carry out its requests.
// Dispatch once before the first wait.
//
// VIPs that failed are no error of the call: the report has them, and the keeper tries again.
// After an error the keeper can go on. `size` is `sizeof *dispatched`. NULL as `dispatched`: what
// it would say is left out.
viproute_code viproute_keeper_dispatch(viproute_keeper *keeper,
                                       size_t max_vips,
                                       viproute_dispatched *dispatched,
                                       size_t size,
                                       viproute_report **report,
                                       viproute_error **error);

// Returns the keeper's gauges as they are now. On success the caller owns `*status`, and frees it by
// viproute_status_free. NULL as `status`: the status is discarded. Waits for a call of another
// thread.
viproute_code viproute_keeper_status(const viproute_keeper *keeper,
                                     viproute_status **status,
                                     viproute_error **error);

// Copies the keeper's counters to `*counters`. `size` is `sizeof *counters`. NULL as `counters`:
// does nothing. NULL as `keeper`: all counters are 0. Waits for a call of another thread.
void viproute_keeper_counters(const viproute_keeper *keeper,
                              viproute_counters *counters,
                              size_t size);

// Opens a manager by a configuration, which is a JSON object. Writes nothing to the kernel.
//
// - "link": the name or the index of the link. The only key that must be given.
// - "netns": the path of the network namespace; without it, the calling thread's.
// - "sources": an array of the node's addresses, at most one a family. VIPs of a family need a
//   source or "kernel_source".
// - "kernel_source": an array of "ipv4", "ipv6": the families that keep the kernel's own local
//   route.
// - "protocol": the number of the routes' protocol. Default: 2, kernel.
// - "address_protocol": the number by which added addresses are marked. Linux 5.18.
// - "binding": "address" (the default) or "route".
// - "avoid_as_source": "deprecated" or "address_label"; "address_label": the number of the label.
// - "allow", "deny": arrays of prefixes. Only allowed and not denied addresses are VIPs.
// - "create_link": "dummy" or "bridge": creates a missing link, and brings it up.
// - "bring_up": true: brings the link up.
// - "stall_timeout_seconds": how long a call waits without progress. Default: 5.
// - "total_timeout_seconds": how long a call may take. Default: no limit.
// - "receive_buffer": bytes. Default: 1048576.
//
// An unknown key is an error. On success the caller owns `*manager`, and frees it by
// viproute_free. On failure `*manager` is NULL. NULL as `config` or `manager`:
// VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_open(const char *config, viproute_manager **manager, viproute_error **error);

// Frees a manager. The VIPs stay. No other thread may use the manager during this call or after
// it. Reports, audits and errors of the manager stay valid. NULL: does nothing.
void viproute_free(viproute_manager *manager);

// Cancels the manager's running call, or else its next call, which ends with
// VIPROUTE_CODE_CANCELLED and the report of what was done. Any thread may call this at any time
// while the manager lives. Does not wait. It only writes to a socket, so a signal handler may call
// it; it may change errno. NULL: does nothing.
void viproute_cancel(const viproute_manager *manager);

// Puts VIPs on the link, each in its single-route state. Repairs the VIPs in another state.
//
// VIPROUTE_CODE_OK means that every VIP was seen in the single-route state after the last write.
// `vips` points to `count` VIPs; if `count` is 0, `vips` does not matter.
viproute_code viproute_assign(viproute_manager *manager,
                              const viproute_vip *vips,
                              size_t count,
                              viproute_report **report,
                              viproute_error **error);

// Brings every VIP on the link into its single-route state, whichever program added the VIP. Never
// adds a VIP.
viproute_code viproute_normalize(viproute_manager *manager,
                                 viproute_report **report,
                                 viproute_error **error);

// As viproute_normalize, for these VIPs alone. A VIP that is not on the link fails as
// VIPROUTE_CAUSE_NOT_ON_LINK. `vips` as for viproute_assign.
viproute_code viproute_normalize_only(viproute_manager *manager,
                                      const viproute_vip *vips,
                                      size_t count,
                                      viproute_report **report,
                                      viproute_error **error);

// Removes VIPs from the link: their addresses, and their routes through the link. A VIP that is
// not on the link counts as unchanged. `vips` as for viproute_assign.
viproute_code viproute_release(viproute_manager *manager,
                               const viproute_vip *vips,
                               size_t count,
                               viproute_report **report,
                               viproute_error **error);

// Makes the claimed VIPs on the link exactly the desired ones: assigns the missing VIPs, repairs
// the drifted VIPs, and releases the claimed VIPs that are not desired.
//
// `claim` is a JSON object. "claim": "link" (every VIP on the link), {"ranges": [prefix, ...]},
// or "mark" (VIPs whose route has the configured "protocol", if that is not kernel, or whose
// address has the configured "address_protocol"). "at_most": how many VIPs the call may release; if
// there are more, it writes nothing and fails with VIPROUTE_CODE_TOO_MANY_RELEASES. An unknown key
// is an error.
//
// A family without a desired VIP releases none, and an empty set fails with
// VIPROUTE_CODE_EMPTY_SET: see viproute_release_all. `vips` as for viproute_assign.
viproute_code viproute_reconcile(viproute_manager *manager,
                                 const char *claim,
                                 const viproute_vip *vips,
                                 size_t count,
                                 viproute_report **report,
                                 viproute_error **error);

// Releases every claimed VIP on the link. `claim` as for viproute_reconcile.
viproute_code viproute_release_all(viproute_manager *manager,
                                   const char *claim,
                                   viproute_report **report,
                                   viproute_error **error);

// Sets the source of its family, and moves every VIP on the link to it, each in place. The manager
// keeps the new source also after an error, except after VIPROUTE_CODE_INVALID_ARGUMENT and
// VIPROUTE_CODE_INVALID_CONFIG. `source` points to one address. NULL:
// VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_set_source(viproute_manager *manager,
                                  const viproute_vip *source,
                                  viproute_report **report,
                                  viproute_error **error);

// Sets the binding, and moves every VIP on the link to it. An IPv4 VIP is local at every instant. On the way to
// VIPROUTE_BINDING_ADDRESS, an IPv6 VIP's only route is replaced in place, and the kernel can miss the route
// for an instant. The manager keeps the new binding also after an error, except after VIPROUTE_CODE_INVALID_ARGUMENT and
// VIPROUTE_CODE_INVALID_CONFIG. For VIPROUTE_BINDING_ROUTE the link may get the placeholder address
// 127.86.73.80, which stays: without an IPv4 address a link has no IPv4 routes.
//
// `binding` is VIPROUTE_BINDING_ADDRESS or VIPROUTE_BINDING_ROUTE. Another number:
// VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_set_binding(viproute_manager *manager,
                                   uint32_t binding,
                                   viproute_report **report,
                                   viproute_error **error);

// Returns the drift of every VIP on the link, and the state of the link and of each source. Writes
// nothing and needs no privilege.
//
// `depth` is VIPROUTE_AUDIT_LINK, or VIPROUTE_AUDIT_NODE, which also finds conflicts with other
// devices and routes in other tables, and reads every route of the node. Another number:
// VIPROUTE_CODE_INVALID_ARGUMENT. On success the caller owns `*audit`, and frees it by
// viproute_audit_free. NULL as `audit`: the audit is discarded.
viproute_code viproute_audit(viproute_manager *manager,
                             uint32_t depth,
                             viproute_audit_result **audit,
                             viproute_error **error);

// As viproute_audit with VIPROUTE_AUDIT_LINK, of the given VIPs alone. Each has its entry in the audit, also if
// it is not on the link. A few VIPs that are right cost a look-up each, in which a duplicate does not
// show. `vips` as for viproute_assign.
viproute_code viproute_audit_only(viproute_manager *manager,
                                  const viproute_vip *vips,
                                  size_t count,
                                  viproute_audit_result **audit,
                                  viproute_error **error);

// Returns what viproute_reconcile would do now, as a plan: the steps in order, each with its reason, and the
// VIPs that would fail, which are no error. Writes nothing and needs no privilege. No call executes a
// plan.
//
// `claim` as for viproute_reconcile, `vips` as for viproute_assign. On success the caller owns
// `*plan`, and frees it by viproute_plan_free. NULL as `plan`: the plan is discarded.
viproute_code viproute_plan(viproute_manager *manager,
                            const char *claim,
                            const viproute_vip *vips,
                            size_t count,
                            viproute_plan_result **plan,
                            viproute_error **error);

// Returns what viproute_assign would do now: as viproute_plan.
viproute_code viproute_plan_assign(viproute_manager *manager,
                                   const viproute_vip *vips,
                                   size_t count,
                                   viproute_plan_result **plan,
                                   viproute_error **error);

// Returns what viproute_release would do now: as viproute_plan.
viproute_code viproute_plan_release(viproute_manager *manager,
                                    const viproute_vip *vips,
                                    size_t count,
                                    viproute_plan_result **plan,
                                    viproute_error **error);

// Opens a watcher of the manager's link, which returns what happens to its VIPs from now on. Needs no
// privilege. The watcher may outlive the manager. On success the caller owns `*watcher`, and frees
// it by viproute_watcher_free. On failure `*watcher` is NULL. NULL as `watcher`:
// the watcher is discarded.
viproute_code viproute_watcher_open(viproute_manager *manager,
                                    viproute_watcher **watcher,
                                    viproute_error **error);

// The name of a code, as "incomplete". Lives as long as the program. NULL for a number that is no
// code.
const char *viproute_code_name(int32_t code);

// The name of a cause, as "conflict". Lives as long as the program. NULL for a number that is no
// cause.
const char *viproute_cause_name(int32_t cause);

// The name of a reason to reject a VIP, as "loopback". Lives as long as the program. NULL for a
// number that is no reason.
const char *viproute_reject_reason_name(int32_t reason);

// The name of a kind of event, as "link_up". Lives as long as the program. NULL for a number that is
// no kind of event.
const char *viproute_event_kind_name(int32_t kind);

// The plan as JSON, as the library's feature `serde` defines it: "steps" and "failures". The plan
// owns the text. NULL: NULL.
const char *viproute_plan_json(const viproute_plan_result *plan);

// The plan as a script of `ip` commands, each with its reason as a comment. The plan owns the text.
// NULL: NULL.
const char *viproute_plan_script(const viproute_plan_result *plan);

// Frees a plan and its texts. NULL: does nothing.
void viproute_plan_free(viproute_plan_result *plan);

// Copies the report's counts to `*counts`. `size` is `sizeof *counts`. NULL as `counts`: does
// nothing. NULL as `report`: all counts are 0.
void viproute_report_counts(const viproute_report *report, viproute_counts *counts, size_t size);

// Copies at most `count` outcomes, from the outcome number `first` on, to the array `outcomes`.
// They are in the order of their addresses, IPv4 first. `size` is `sizeof *outcomes`. Returns how
// many were copied. NULL as `report` or `outcomes`: 0.
size_t viproute_report_outcomes(const viproute_report *report,
                                size_t first,
                                viproute_outcome *outcomes,
                                size_t size,
                                size_t count);

// As viproute_report_outcomes, for the failures. Their messages live as long as the report.
size_t viproute_report_failures(const viproute_report *report,
                                size_t first,
                                viproute_failure *failures,
                                size_t size,
                                size_t count);

// The report as JSON, as the library's feature `serde` defines it; of a dispatch, all of the
// dispatch, with the report in the field "report". The report owns the text. NULL: NULL.
const char *viproute_report_json(const viproute_report *report);

// Frees a report, its JSON and the messages of its failures. NULL: does nothing.
void viproute_report_free(viproute_report *report);

// Copies the gauges to `*state`. `size` is `sizeof *state`. NULL as `state`: does nothing. NULL as
// `status`: every field is 0.
void viproute_status_summary(const viproute_status *status,
                             viproute_keeper_state *state,
                             size_t size);

// The status as JSON, as the library's feature `serde` defines it. The status owns the text. NULL:
// NULL.
const char *viproute_status_json(const viproute_status *status);

// Frees a status and its JSON. NULL: does nothing.
void viproute_status_free(viproute_status *status);

// Takes the next event, and copies it to `*event`. Does not wait: if nothing has happened, the kind is
// VIPROUTE_EVENT_KIND_NONE. Wait for the descriptor only after that: events that are read already do
// not make it readable. `size` is `sizeof *event`. NULL as `event`: VIPROUTE_CODE_INVALID_ARGUMENT.
viproute_code viproute_watcher_next(viproute_watcher *watcher,
                                    viproute_event *event,
                                    size_t size,
                                    viproute_error **error);

// The watcher's descriptor, for poll(2) and epoll(7), also edge-triggered. The watcher owns the
// descriptor: never read it nor close it. The same as long as the watcher lives. NULL: -1.
int viproute_watcher_fd(const viproute_watcher *watcher);

// Frees a watcher, and closes its descriptor. No other thread may use the watcher during this call or
// after it. NULL: does nothing.
void viproute_watcher_free(viproute_watcher *watcher);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VIPROUTE_H */
