package viproute

// #include <viproute.h>
import "C"

import (
	"net/netip"
	"strings"
	"syscall"
	"unsafe"
)

const (
	afInet  = syscall.AF_INET
	afInet6 = syscall.AF_INET6
)

// A Report says what a call did, VIP by VIP.
type Report struct {
	// Assigned VIPs were not on the link.
	Assigned int
	// Repaired VIPs had drifted.
	Repaired int
	// Released VIPs were removed.
	Released int
	// Unchanged VIPs were already as desired.
	Unchanged int
	// Writes counts the messages that write.
	Writes uint64
	// Retries counts the steps that were repeated.
	Retries uint64
	// Outcomes has each assigned, repaired or released VIP.
	Outcomes []Outcome
	// Failures has each VIP that is not in the desired state.
	Failures []Failure
}

// An OutcomeKind is what a call did for a VIP.
type OutcomeKind int32

// What a call does for a VIP.
const (
	None     OutcomeKind = C.VIPROUTE_OUTCOME_KIND_NONE
	Assigned OutcomeKind = C.VIPROUTE_OUTCOME_KIND_ASSIGNED
	Repaired OutcomeKind = C.VIPROUTE_OUTCOME_KIND_REPAIRED
	Released OutcomeKind = C.VIPROUTE_OUTCOME_KIND_RELEASED
)

// An Outcome is a VIP that a call brought into the desired state.
type Outcome struct {
	VIP  netip.Addr
	Kind OutcomeKind
	// Cured is the drift that a repair ended.
	Cured Drift
}

// A Cause is why a VIP failed.
type Cause int32

// The causes.
const (
	CauseUnknown           Cause = C.VIPROUTE_CAUSE_UNKNOWN
	CauseRejected          Cause = C.VIPROUTE_CAUSE_REJECTED
	CauseMissing           Cause = C.VIPROUTE_CAUSE_MISSING
	CauseConflict          Cause = C.VIPROUTE_CAUSE_CONFLICT
	CauseOtherPrefixLength Cause = C.VIPROUTE_CAUSE_OTHER_PREFIX_LENGTH
	CauseDadFailed         Cause = C.VIPROUTE_CAUSE_DAD_FAILED
	CauseStaleRoute        Cause = C.VIPROUTE_CAUSE_STALE_ROUTE
	CauseExpiringAddress   Cause = C.VIPROUTE_CAUSE_EXPIRING_ADDRESS
	CauseNotOnLink         Cause = C.VIPROUTE_CAUSE_NOT_ON_LINK
	CauseKernel            Cause = C.VIPROUTE_CAUSE_KERNEL
	CausePending           Cause = C.VIPROUTE_CAUSE_PENDING
	CauseContended         Cause = C.VIPROUTE_CAUSE_CONTENDED
	CauseUnread            Cause = C.VIPROUTE_CAUSE_UNREAD
	CauseNotReached        Cause = C.VIPROUTE_CAUSE_NOT_REACHED
)

// String is the library's name, as "not_reached".
func (cause Cause) String() string {
	if name := C.viproute_cause_name(C.int32_t(cause)); name != nil {
		return C.GoString(name)
	}
	return "unknown"
}

// A RejectReason is why an address cannot be a VIP.
type RejectReason int32

// The reasons.
const (
	NotRejected       RejectReason = C.VIPROUTE_REJECT_REASON_NONE
	RejectUnspecified RejectReason = C.VIPROUTE_REJECT_REASON_UNSPECIFIED
	RejectLoopback    RejectReason = C.VIPROUTE_REJECT_REASON_LOOPBACK
	RejectMulticast   RejectReason = C.VIPROUTE_REJECT_REASON_MULTICAST
	RejectLinkLocal   RejectReason = C.VIPROUTE_REJECT_REASON_LINK_LOCAL
	RejectBroadcast   RejectReason = C.VIPROUTE_REJECT_REASON_BROADCAST
	RejectV4Mapped    RejectReason = C.VIPROUTE_REJECT_REASON_V4_MAPPED
	RejectIsSource    RejectReason = C.VIPROUTE_REJECT_REASON_IS_SOURCE
	RejectNotAllowed  RejectReason = C.VIPROUTE_REJECT_REASON_OUTSIDE_ALLOWED
	RejectDenied      RejectReason = C.VIPROUTE_REJECT_REASON_DENIED
	RejectNoSource    RejectReason = C.VIPROUTE_REJECT_REASON_NO_SOURCE
)

// String is the library's name, as "loopback".
func (reason RejectReason) String() string {
	if name := C.viproute_reject_reason_name(C.int32_t(reason)); name != nil {
		return C.GoString(name)
	}
	return "none"
}

// A Failure is a VIP that is not in the desired state.
type Failure struct {
	VIP   netip.Addr
	Cause Cause
	// Reason is why the VIP was rejected, if the cause is CauseRejected.
	Reason RejectReason
	// Missing is what the VIP's family lacks, if the cause is CauseMissing.
	Missing Code
	// Errno is the kernel's error, or 0.
	Errno syscall.Errno
	// Begun is what the call had begun to do for the VIP.
	Begun OutcomeKind
	// Drift is how the VIP differed when it was last seen.
	Drift Drift
	// Message is the failure in words, with the VIP.
	Message string
}

// Error is the message.
func (failure Failure) Error() string { return failure.Message }

// A Drift is a set of flags: how a VIP differs from its single-route state.
type Drift uint32

// The flags of a Drift.
const (
	MissingAddress    Drift = C.VIPROUTE_DRIFT_MISSING_ADDRESS
	WrongPrefixLength Drift = C.VIPROUTE_DRIFT_WRONG_PREFIX_LENGTH
	Tentative         Drift = C.VIPROUTE_DRIFT_TENTATIVE
	DadFailed         Drift = C.VIPROUTE_DRIFT_DAD_FAILED
	PrefixRoute       Drift = C.VIPROUTE_DRIFT_PREFIX_ROUTE
	KernelLocalRoute  Drift = C.VIPROUTE_DRIFT_KERNEL_LOCAL_ROUTE
	MissingRoute      Drift = C.VIPROUTE_DRIFT_MISSING_ROUTE
	WrongSource       Drift = C.VIPROUTE_DRIFT_WRONG_SOURCE
	WrongProtocol     Drift = C.VIPROUTE_DRIFT_WRONG_PROTOCOL
	Duplicate         Drift = C.VIPROUTE_DRIFT_DUPLICATE
	Stale             Drift = C.VIPROUTE_DRIFT_STALE
	Conflict          Drift = C.VIPROUTE_DRIFT_CONFLICT
	UnwantedAddress   Drift = C.VIPROUTE_DRIFT_UNWANTED_ADDRESS
	OtherTable        Drift = C.VIPROUTE_DRIFT_OTHER_TABLE
	Unread            Drift = C.VIPROUTE_DRIFT_UNREAD
	ExpiringAddress   Drift = C.VIPROUTE_DRIFT_EXPIRING_ADDRESS
	ExpiringRoute     Drift = C.VIPROUTE_DRIFT_EXPIRING_ROUTE
	Diverted          Drift = C.VIPROUTE_DRIFT_DIVERTED
)

var driftNames = []struct {
	flag Drift
	name string
}{
	{MissingAddress, "missing address"}, {WrongPrefixLength, "wrong prefix length"}, {Tentative, "tentative"},
	{DadFailed, "dad failed"}, {PrefixRoute, "prefix route"}, {KernelLocalRoute, "kernel local route"},
	{MissingRoute, "missing route"}, {WrongSource, "wrong source"}, {WrongProtocol, "wrong protocol"},
	{Duplicate, "duplicate"}, {Stale, "stale"}, {Conflict, "conflict"}, {UnwantedAddress, "unwanted address"},
	{OtherTable, "other table"}, {Unread, "unread"}, {ExpiringAddress, "expiring address"},
	{ExpiringRoute, "expiring route"}, {Diverted, "diverted"},
}

// String has the flags in words: "missing route, wrong source".
func (drift Drift) String() string {
	var names []string
	for _, entry := range driftNames {
		if drift&entry.flag != 0 {
			names = append(names, entry.name)
		}
	}
	return strings.Join(names, ", ")
}

// An Audit has the observed state of every VIP on the link.
type Audit struct {
	// Clean: no VIP has drifted, every VIP was judged, and link and sources serve the VIPs.
	Clean bool
	VIPs  []Audited
}

// An Audited is the observed state of one VIP.
type Audited struct {
	VIP netip.Addr
	// Drift is how the VIP differs from its single-route state. 0: not at all.
	Drift Drift
	// Judged is false if the VIP's source could not be judged, because none is configured.
	Judged bool
}

// takeReport copies a report and frees it. NULL becomes nil.
func takeReport(report *C.viproute_report) *Report {
	if report == nil {
		return nil
	}
	defer C.viproute_report_free(report)
	var counts C.viproute_counts
	C.viproute_report_counts(report, &counts, C.size_t(unsafe.Sizeof(counts)))
	result := &Report{
		Assigned:  int(counts.assigned),
		Repaired:  int(counts.repaired),
		Released:  int(counts.released),
		Unchanged: int(counts.unchanged),
		Writes:    uint64(counts.writes),
		Retries:   uint64(counts.retries),
	}
	if counts.outcomes > 0 {
		outcomes := make([]C.viproute_outcome, counts.outcomes)
		size := C.size_t(unsafe.Sizeof(outcomes[0]))
		C.viproute_report_outcomes(report, 0, &outcomes[0], size, C.size_t(len(outcomes)))
		result.Outcomes = make([]Outcome, len(outcomes))
		for at := range outcomes {
			from := &outcomes[at]
			result.Outcomes[at] = Outcome{fromC(&from.vip), OutcomeKind(from.kind), Drift(from.cured)}
		}
	}
	if counts.failures > 0 {
		failures := make([]C.viproute_failure, counts.failures)
		size := C.size_t(unsafe.Sizeof(failures[0]))
		C.viproute_report_failures(report, 0, &failures[0], size, C.size_t(len(failures)))
		result.Failures = make([]Failure, len(failures))
		for at := range failures {
			from := &failures[at]
			result.Failures[at] = Failure{
				VIP:     fromC(&from.vip),
				Cause:   Cause(from.cause),
				Reason:  RejectReason(from.reason),
				Missing: Code(from.missing),
				Errno:   syscall.Errno(from.error_number),
				Begun:   OutcomeKind(from.begun),
				Drift:   Drift(from.drift),
				Message: C.GoString(from.message),
			}
		}
	}
	return result
}

// takeAudit copies an audit.
func takeAudit(audit *C.viproute_audit_result) *Audit {
	var state C.viproute_audit_state
	C.viproute_audit_summary(audit, &state, C.size_t(unsafe.Sizeof(state)))
	result := &Audit{Clean: state.is_clean != 0, VIPs: make([]Audited, state.vips)}
	if state.vips > 0 {
		rows := make([]C.viproute_audited, state.vips)
		size := C.size_t(unsafe.Sizeof(rows[0]))
		C.viproute_audit_vips(audit, 0, &rows[0], size, C.size_t(len(rows)))
		for at := range rows {
			from := &rows[at]
			result.VIPs[at] = Audited{fromC(&from.vip), Drift(from.drift), from.is_judged != 0}
		}
	}
	return result
}
