package viproute

// #include <viproute.h>
import "C"

import "syscall"

// A Code is why a call failed. It is an error for [errors.Is]:
//
//	if errors.Is(err, viproute.ErrIncomplete) { ... }
type Code int32

// The codes.
const (
	ErrInvalidArgument  Code = C.VIPROUTE_CODE_INVALID_ARGUMENT
	ErrPanic            Code = C.VIPROUTE_CODE_PANIC
	ErrIncomplete       Code = C.VIPROUTE_CODE_INCOMPLETE
	ErrCancelled        Code = C.VIPROUTE_CODE_CANCELLED
	ErrInvalidConfig    Code = C.VIPROUTE_CODE_INVALID_CONFIG
	ErrEmptySet         Code = C.VIPROUTE_CODE_EMPTY_SET
	ErrTooManyReleases  Code = C.VIPROUTE_CODE_TOO_MANY_RELEASES
	ErrInvalidNetns     Code = C.VIPROUTE_CODE_INVALID_NETNS
	ErrLinkNotFound     Code = C.VIPROUTE_CODE_LINK_NOT_FOUND
	ErrLinkDown         Code = C.VIPROUTE_CODE_LINK_DOWN
	ErrLinkInVrf        Code = C.VIPROUTE_CODE_LINK_IN_VRF
	ErrIpv6Disabled     Code = C.VIPROUTE_CODE_IPV6_DISABLED
	ErrSourceNotOnNode  Code = C.VIPROUTE_CODE_SOURCE_NOT_ON_NODE
	ErrSourceTentative  Code = C.VIPROUTE_CODE_SOURCE_TENTATIVE
	ErrLabelConflict    Code = C.VIPROUTE_CODE_LABEL_CONFLICT
	ErrPermissionDenied Code = C.VIPROUTE_CODE_PERMISSION_DENIED
	ErrOtherProcess     Code = C.VIPROUTE_CODE_OTHER_PROCESS
	ErrSystem           Code = C.VIPROUTE_CODE_SYSTEM
)

// Error is the library's name of the code, as "too_many_releases".
func (code Code) Error() string {
	if name := C.viproute_code_name(C.int32_t(code)); name != nil {
		return "viproute: " + C.GoString(name)
	}
	return "viproute: unknown code"
}

// An Error is why a call failed. [errors.Is] compares it with a [Code], with the kernel's
// [syscall.Errno], and if the context ended the call, with the context's error.
type Error struct {
	Code    Code
	Message string
	cause   error
}

// Error is the message.
func (err *Error) Error() string { return "viproute: " + err.Message }

// Is reports whether target is the code.
func (err *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == err.Code
}

// Unwrap returns the kernel's errno or the context's error, or nil.
func (err *Error) Unwrap() error { return err.cause }

// takeError copies an error and frees it.
func takeError(failed *C.viproute_error) *Error {
	defer C.viproute_error_free(failed)
	err := &Error{
		Code:    Code(C.viproute_error_code(failed)),
		Message: C.GoString(C.viproute_error_message(failed)),
	}
	if errno := C.viproute_error_errno(failed); errno != 0 {
		err.cause = syscall.Errno(errno)
	}
	return err
}
