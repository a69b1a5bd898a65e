// Every function with NULL, wrong values, empty arrays and in odd orders, at random and from two
// threads. Run by tests/library.rs in a network namespace: border ROUNDS.
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <viproute.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
            exit(1); \
        } \
    } while (0)

static const char *CONFIG =
    "{\"link\": \"kube-dummy-if\", \"sources\": [\"192.0.2.10\", \"2001:db8::10\"]}";
static const char *CLAIM = "{\"claim\": \"link\"}";
// No call reads what it is not given.
static const viproute_vip *const DANGLING = (const viproute_vip *)(uintptr_t)0x10;

static viproute_vip vip(const char *text) {
    viproute_vip vip;
    memset(&vip, 0xff, sizeof vip);
    vip.family = strchr(text, ':') ? AF_INET6 : AF_INET;
    CHECK(inet_pton(vip.family, text, vip.address) == 1);
    return vip;
}

static viproute_code done(viproute_code code, viproute_report *report, viproute_error *error);

static void all_null(void) {
    viproute_error *error = NULL;
    viproute_report *report = NULL;
    viproute_counts counts = {.assigned = 7};
    viproute_counters counters = {.repairs = 7};
    viproute_audit_state state = {.vips = 7};
    viproute_keeper_state gauges = {.desired_ipv4 = 7};
    viproute_event event = {.kind = VIPROUTE_EVENT_KIND_RESYNC};
    viproute_manager *manager = NULL;
    viproute_keeper *keeper = NULL;
    const viproute_code bad = VIPROUTE_CODE_INVALID_ARGUMENT;

    CHECK(viproute_open(NULL, NULL, NULL) == bad);
    CHECK(viproute_open(CONFIG, NULL, NULL) == bad);
    CHECK(viproute_open(NULL, &manager, NULL) == bad && manager == NULL);
    CHECK(viproute_keeper_open(NULL, NULL, NULL, NULL) == bad);
    CHECK(viproute_keeper_open(CONFIG, NULL, &keeper, NULL) == bad && keeper == NULL);
    CHECK(viproute_keeper_open(NULL, CLAIM, &keeper, NULL) == bad && keeper == NULL);
    CHECK(viproute_assign(NULL, NULL, 0, NULL, NULL) == bad);
    CHECK(viproute_assign(NULL, DANGLING, 0, &report, &error) == bad && report == NULL);
    done(bad, report, error);
    CHECK(viproute_normalize(NULL, NULL, NULL) == bad);
    CHECK(viproute_release(NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_reconcile(NULL, NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_release_all(NULL, NULL, NULL, NULL) == bad);
    CHECK(viproute_set_source(NULL, NULL, NULL, NULL) == bad);
    CHECK(viproute_normalize_only(NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_set_binding(NULL, 0, NULL, NULL) == bad);
    CHECK(viproute_audit(NULL, 0, NULL, NULL) == bad);
    CHECK(viproute_audit_only(NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_plan(NULL, NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_plan_assign(NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_plan_release(NULL, NULL, 1, NULL, NULL) == bad);
    CHECK(viproute_watcher_open(NULL, NULL, NULL) == bad);
    CHECK(viproute_watcher_next(NULL, NULL, 0, NULL) == bad);
    CHECK(viproute_watcher_next(NULL, &event, sizeof event, NULL) == bad);
    CHECK(event.kind == VIPROUTE_EVENT_KIND_NONE && viproute_watcher_fd(NULL) == -1);
    CHECK(viproute_keeper_status(NULL, NULL, NULL) == bad);
    CHECK(viproute_keeper_set(NULL, NULL, 1, NULL) == bad);
    CHECK(viproute_keeper_add(NULL, DANGLING, 0, NULL) == bad);
    CHECK(viproute_keeper_remove(NULL, NULL, 0, NULL) == bad);
    CHECK(viproute_keeper_set_source(NULL, NULL, NULL) == bad);
    CHECK(viproute_keeper_dispatch(NULL, 0, NULL, 0, NULL, NULL) == bad);
    CHECK(viproute_keeper_fd(NULL) == -1 && viproute_keeper_deadline(NULL) == -1);
    viproute_keeper_counters(NULL, &counters, sizeof counters);
    viproute_keeper_counters(NULL, NULL, sizeof counters);
    viproute_report_counts(NULL, &counts, sizeof counts);
    viproute_report_counts(NULL, NULL, 1000);
    viproute_audit_summary(NULL, &state, sizeof state);
    viproute_audit_summary(NULL, NULL, 0);
    viproute_status_summary(NULL, &gauges, sizeof gauges);
    viproute_status_summary(NULL, NULL, 9);
    CHECK(counters.repairs == 0 && counts.assigned == 0 && state.vips == 0 && gauges.desired_ipv4 == 0);
    CHECK(viproute_report_outcomes(NULL, 1, NULL, 1, 1) == 0);
    CHECK(viproute_report_failures(NULL, 0, NULL, 0, 9) == 0);
    CHECK(viproute_audit_vips(NULL, 0, NULL, 0, 9) == 0);
    CHECK(viproute_report_json(NULL) == NULL && viproute_audit_json(NULL) == NULL);
    CHECK(viproute_plan_json(NULL) == NULL && viproute_plan_script(NULL) == NULL);
    CHECK(viproute_status_json(NULL) == NULL);
    CHECK(viproute_error_code(NULL) == VIPROUTE_CODE_OK && viproute_error_errno(NULL) == 0);
    CHECK(viproute_error_message(NULL) == NULL);
    viproute_cancel(NULL);
    viproute_keeper_cancel(NULL);
    viproute_free(NULL);
    viproute_keeper_free(NULL);
    viproute_report_free(NULL);
    viproute_watcher_free(NULL);
    viproute_audit_free(NULL);
    viproute_plan_free(NULL);
    viproute_status_free(NULL);
    viproute_error_free(NULL);
    CHECK(viproute_code_name(-1) == NULL && viproute_cause_name(1000000) == NULL);
    CHECK(viproute_reject_reason_name(-1) == NULL && viproute_event_kind_name(99) == NULL);
    CHECK(strcmp(viproute_version(), "") != 0);
}

// A keeper that is used before it has an order, and objects that outlive their handle.
static void odd_orders(void) {
    viproute_keeper *keeper = NULL;
    viproute_manager *manager = NULL;
    viproute_report *report = NULL;
    viproute_audit_result *audit = NULL;
    viproute_plan_result *plan = NULL;
    viproute_status *status = NULL;
    viproute_watcher *watcher = NULL;
    viproute_error *error = NULL;
    viproute_event event;
    viproute_vip one = vip("10.96.0.1");

    CHECK(viproute_keeper_open(CONFIG, CLAIM, &keeper, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_status(keeper, &status, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_fd(keeper) >= 0 && viproute_keeper_deadline(keeper) == -1);
    CHECK(viproute_keeper_dispatch(keeper, 0, NULL, 0, NULL, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_remove(keeper, &one, 1, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_set(keeper, DANGLING, 0, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_dispatch(keeper, 1, NULL, 0, &report, &error) == VIPROUTE_CODE_OK);
    viproute_keeper_free(keeper);
    CHECK(viproute_report_json(report) == viproute_report_json(report));
    done(VIPROUTE_CODE_OK, report, error);
    CHECK(strstr(viproute_status_json(status), "\"last_dispatch_seconds\":null") != NULL);
    viproute_status_free(status);

    CHECK(viproute_open(CONFIG, &manager, &error) == VIPROUTE_CODE_OK && error == NULL);
    one.family = 99;
    CHECK(viproute_assign(manager, &one, 1, &report, &error) == VIPROUTE_CODE_INVALID_ARGUMENT);
    CHECK(report == NULL);
    CHECK(viproute_audit(manager, VIPROUTE_AUDIT_NODE, &audit, NULL) == VIPROUTE_CODE_OK);
    one.family = AF_INET;
    CHECK(viproute_plan_assign(manager, &one, 1, &plan, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_watcher_open(manager, &watcher, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_assign(manager, &one, 1, NULL, NULL) == VIPROUTE_CODE_OK);
    viproute_free(manager);
    CHECK(strstr(viproute_plan_script(plan), "10.96.0.1") != NULL);
    CHECK(strstr(viproute_plan_json(plan), "\"steps\"") != NULL);
    viproute_plan_free(plan);
    CHECK(viproute_watcher_fd(watcher) >= 0);
    CHECK(viproute_watcher_next(watcher, &event, sizeof event, NULL) == VIPROUTE_CODE_OK);
    CHECK(event.kind == VIPROUTE_EVENT_KIND_VIP && memcmp(&event.address, &one, 5) == 0);
    CHECK(viproute_watcher_next(watcher, NULL, 0, NULL) == VIPROUTE_CODE_INVALID_ARGUMENT);
    viproute_watcher_free(watcher);
    CHECK(strstr(viproute_error_message(error), "99") != NULL);
    CHECK(strstr(viproute_audit_json(audit), "\"vips\"") != NULL);
    viproute_audited row;
    CHECK(viproute_audit_vips(audit, (size_t)-1, &row, sizeof row, 1) == 0);
    viproute_audit_free(audit);
    viproute_error_free(error);
}

// In a child process a handle says that it is the parent's.
static void forked(void) {
    viproute_manager *manager = NULL;
    viproute_watcher *watcher = NULL;
    viproute_event event;
    viproute_vip one = vip("10.96.0.1");
    int status = 0;
    CHECK(viproute_open(CONFIG, &manager, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_watcher_open(manager, &watcher, NULL) == VIPROUTE_CODE_OK);
    pid_t child = fork();
    if (child == 0) {
        viproute_code code = viproute_watcher_next(watcher, &event, sizeof event, NULL);
        if (code == VIPROUTE_CODE_OTHER_PROCESS) code = viproute_assign(manager, &one, 1, NULL, NULL);
        _exit((int)code);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == VIPROUTE_CODE_OTHER_PROCESS);
    CHECK(viproute_assign(manager, &one, 1, NULL, NULL) == VIPROUTE_CODE_OK);
    viproute_free(manager);
    viproute_watcher_free(watcher);
}

// Every function of the library. tests/library.rs compares them with the symbols that the library exports.
#define FUNCTIONS(X) \
    X(version) X(code_name) X(cause_name) X(reject_reason_name) X(event_kind_name) \
    X(open) X(free) X(cancel) X(assign) X(normalize) X(normalize_only) X(release) X(reconcile) X(release_all) \
    X(set_source) X(set_binding) X(audit) X(audit_only) X(plan) X(plan_assign) X(plan_release) \
    X(watcher_open) X(watcher_free) X(watcher_fd) X(watcher_next) \
    X(keeper_open) X(keeper_free) X(keeper_cancel) X(keeper_set) X(keeper_add) X(keeper_remove) X(keeper_set_source) \
    X(keeper_fd) X(keeper_deadline) X(keeper_dispatch) X(keeper_status) X(keeper_counters) \
    X(report_counts) X(report_outcomes) X(report_failures) X(report_json) X(report_free) \
    X(audit_summary) X(audit_vips) X(audit_json) X(audit_free) X(plan_json) X(plan_script) X(plan_free) \
    X(status_summary) X(status_json) X(status_free) X(error_code) X(error_errno) X(error_message) X(error_free)

#define CALL(name) CALL_##name,
enum function { FUNCTIONS(CALL) COUNT };
#define NAME(name) "viproute_" #name,
static const char *const NAMES[COUNT] = {FUNCTIONS(NAME)};

// What the threads share.
static viproute_manager *manager;
static viproute_keeper *keeper;
static viproute_watcher *watcher;

// What a call is given, good or bad.
struct arguments {
    viproute_manager *manager;
    viproute_keeper *keeper;
    viproute_watcher *watcher;
    const char *config, *claim;
    const viproute_vip *vips, *source;
    size_t count, first, size;
    unsigned number;
    // A place for what a function fills in: `count` times `size` bytes, or NULL.
    void *room;
    // NULL if the caller does not take the report.
    viproute_report *report, **reports;
    viproute_error **errors;
};

static const size_t ROOM = 4096;

// Nothing at all.
static struct arguments nothing(viproute_error **errors) {
    struct arguments with = {.vips = DANGLING, .errors = errors};
    return with;
}

static unsigned below(unsigned *seed, unsigned limit) { return (unsigned)rand_r(seed) % limit; }

// Each argument is good or bad at random.
static struct arguments anything(unsigned *seed, char *room, const viproute_vip *good, viproute_error **errors) {
    const char *claims[4] = {CLAIM, "{\"claim\": \"link\", \"at_most\": 0}", "{\"clam\": 1}", NULL};
    const char *configs[4] = {CONFIG, "{\"link\": \"\"}", "\xff", NULL};
    size_t count = below(seed, 4);
    struct arguments with = {
        .manager = below(seed, 16) ? manager : NULL,
        .keeper = below(seed, 16) ? keeper : NULL,
        .watcher = below(seed, 16) ? watcher : NULL,
        .config = configs[below(seed, 4)],
        .claim = claims[below(seed, 4)],
        .vips = count == 0 ? DANGLING : below(seed, 8) ? good : NULL,
        .source = below(seed, 2) ? &good[2] : NULL,
        .count = count,
        .first = below(seed, 2) ? below(seed, 3) : SIZE_MAX,
        // Also shorter and longer than the library's struct.
        .size = below(seed, (unsigned)(ROOM / 4)),
        .number = below(seed, 3),
        .room = below(seed, 8) ? room : NULL,
        .errors = errors,
    };
    return with;
}

// Takes over what a call gave. An error comes exactly with a code, and both free functions take
// NULL.
static viproute_code done(viproute_code code, viproute_report *report, viproute_error *error) {
    CHECK((code == VIPROUTE_CODE_OK) == (error == NULL));
    CHECK(viproute_error_code(error) == code);
    CHECK((viproute_error_message(error) == NULL) == (error == NULL));
    CHECK(viproute_error_errno(error) >= 0);
    CHECK(viproute_code_name(code) != NULL);
    viproute_failure failures[4];
    size_t count = viproute_report_failures(report, 0, failures, sizeof *failures, 4);
    for (size_t i = 0; i < count; i++) CHECK(strlen(failures[i].message) > 0);
    viproute_report_free(report);
    viproute_error_free(error);
    return code;
}

// Runs a call that makes an object, reads all of it, and frees it.
static viproute_code objects(enum function function, struct arguments *with) {
    viproute_manager *opened = NULL;
    viproute_keeper *kept = NULL;
    viproute_watcher *watched = NULL;
    viproute_audit_result *audit = NULL;
    viproute_plan_result *plan = NULL;
    viproute_status *status = NULL;
    viproute_code code = VIPROUTE_CODE_OK;
    struct arguments w = *with;
    switch (function) {
    case CALL_open: case CALL_free: code = viproute_open(w.config, &opened, w.errors); break;
    case CALL_keeper_open: case CALL_keeper_free: code = viproute_keeper_open(w.config, w.claim, &kept, w.errors); break;
    case CALL_watcher_open: case CALL_watcher_free: code = viproute_watcher_open(w.manager, &watched, w.errors); break;
    case CALL_audit_only: code = viproute_audit_only(w.manager, w.vips, w.count, &audit, w.errors); break;
    case CALL_plan: code = viproute_plan(w.manager, w.claim, w.vips, w.count, &plan, w.errors); break;
    case CALL_plan_release: code = viproute_plan_release(w.manager, w.vips, w.count, &plan, w.errors); break;
    case CALL_plan_assign: case CALL_plan_json: case CALL_plan_script: case CALL_plan_free:
        code = viproute_plan_assign(w.manager, w.vips, w.count, &plan, w.errors);
        break;
    case CALL_keeper_status: case CALL_status_summary: case CALL_status_json: case CALL_status_free:
        code = viproute_keeper_status(w.keeper, &status, w.errors);
        break;
    default: code = viproute_audit(w.manager, w.number, &audit, w.errors);
    }
    CHECK((code == VIPROUTE_CODE_OK) == (opened || kept || watched || audit || plan || status));
    viproute_audit_summary(audit, w.room, w.size);
    CHECK(viproute_audit_vips(audit, w.first, w.room, w.size, w.count) <= w.count);
    CHECK((viproute_audit_json(audit) == NULL) == (audit == NULL));
    CHECK((viproute_plan_json(plan) == NULL) == (plan == NULL));
    CHECK((viproute_plan_script(plan) == NULL) == (plan == NULL));
    viproute_status_summary(status, w.room, w.size);
    CHECK((viproute_status_json(status) == NULL) == (status == NULL));
    viproute_free(opened);
    viproute_keeper_free(kept);
    viproute_watcher_free(watched);
    viproute_audit_free(audit);
    viproute_plan_free(plan);
    viproute_status_free(status);
    return code;
}

// Reads all of a report and of an error, and frees them.
static void results(viproute_code code, struct arguments *with) {
    viproute_report_counts(with->report, with->room, with->size);
    CHECK(viproute_report_outcomes(with->report, with->first, with->room, with->size, with->count) <= with->count);
    CHECK(viproute_report_failures(with->report, with->first, with->room, with->size, with->count) <= with->count);
    CHECK((viproute_report_json(with->report) == NULL) == (with->report == NULL));
    CHECK(code != VIPROUTE_CODE_PANIC);
    done(code, with->report, *with->errors);
}

static void names(int32_t number) {
    CHECK(viproute_version() != NULL);
    (void)viproute_code_name(number);
    (void)viproute_cause_name(number);
    (void)viproute_reject_reason_name(number);
    (void)viproute_event_kind_name(number);
}

// Runs a function. No answer but a code of the header, and no crash. There is no default, so that the compiler
// names a function that is left out.
static viproute_code run(enum function function, struct arguments *w) {
    switch (function) {
    case CALL_version: case CALL_code_name: case CALL_cause_name: case CALL_reject_reason_name: case CALL_event_kind_name:
        names((int32_t)w->first);
        return VIPROUTE_CODE_OK;
    case CALL_open: case CALL_free: case CALL_keeper_open: case CALL_keeper_free: case CALL_watcher_open:
    case CALL_watcher_free: case CALL_audit: case CALL_audit_only: case CALL_audit_summary: case CALL_audit_vips:
    case CALL_audit_json: case CALL_audit_free: case CALL_plan: case CALL_plan_assign: case CALL_plan_release:
    case CALL_plan_json: case CALL_plan_script: case CALL_plan_free: case CALL_keeper_status: case CALL_status_summary:
    case CALL_status_json: case CALL_status_free:
        return objects(function, w);
    case CALL_cancel: viproute_cancel(w->manager); return VIPROUTE_CODE_OK;
    case CALL_assign: return viproute_assign(w->manager, w->vips, w->count, w->reports, w->errors);
    // Their results are read after every call.
    case CALL_report_counts: case CALL_report_outcomes: case CALL_report_failures: case CALL_report_json:
    case CALL_report_free: case CALL_error_code: case CALL_error_errno: case CALL_error_message: case CALL_error_free:
    case CALL_normalize: return viproute_normalize(w->manager, w->reports, w->errors);
    case CALL_normalize_only: return viproute_normalize_only(w->manager, w->vips, w->count, w->reports, w->errors);
    case CALL_release: return viproute_release(w->manager, w->vips, w->count, w->reports, w->errors);
    case CALL_reconcile:
        return viproute_reconcile(w->manager, w->claim, w->vips, w->count, w->reports, w->errors);
    case CALL_release_all: return viproute_release_all(w->manager, w->claim, w->reports, w->errors);
    case CALL_set_source: return viproute_set_source(w->manager, w->source, w->reports, w->errors);
    case CALL_set_binding: return viproute_set_binding(w->manager, w->number, w->reports, w->errors);
    case CALL_watcher_fd: CHECK((viproute_watcher_fd(w->watcher) < 0) == (w->watcher == NULL)); return VIPROUTE_CODE_OK;
    case CALL_watcher_next: return viproute_watcher_next(w->watcher, w->room, w->size, w->errors);
    case CALL_keeper_cancel: viproute_keeper_cancel(w->keeper); return VIPROUTE_CODE_OK;
    case CALL_keeper_set: return viproute_keeper_set(w->keeper, w->vips, w->count, w->errors);
    case CALL_keeper_add: return viproute_keeper_add(w->keeper, w->vips, w->count, w->errors);
    case CALL_keeper_remove: return viproute_keeper_remove(w->keeper, w->vips, w->count, w->errors);
    case CALL_keeper_set_source: return viproute_keeper_set_source(w->keeper, w->source, w->errors);
    case CALL_keeper_fd: CHECK((viproute_keeper_fd(w->keeper) < 0) == (w->keeper == NULL)); return VIPROUTE_CODE_OK;
    case CALL_keeper_deadline: CHECK(viproute_keeper_deadline(w->keeper) >= -1); return VIPROUTE_CODE_OK;
    case CALL_keeper_dispatch:
        return viproute_keeper_dispatch(w->keeper, w->count, w->room, w->size, w->reports, w->errors);
    case CALL_keeper_counters: viproute_keeper_counters(w->keeper, w->room, w->size); return VIPROUTE_CODE_OK;
    case COUNT: break;
    }
    CHECK(!"a function");
    return VIPROUTE_CODE_OK;
}

// Each function without arguments, then with anything, then in any order.
static void *random_calls(void *argument) {
    unsigned *seed = argument;
    const viproute_vip good[3] = {vip("10.96.0.2"), vip("2001:db8:42:1::2"), vip("127.0.0.1")};
    unsigned rounds = *seed;
    char *room = malloc(ROOM);
    for (unsigned i = 0; i < 2 * COUNT + rounds; i++) {
        viproute_error *error = NULL;
        struct arguments with = i < COUNT ? nothing(&error) : anything(seed, room, good, &error);
        with.reports = below(seed, 2) ? &with.report : NULL;
        enum function function = i < 2 * COUNT ? i % COUNT : below(seed, COUNT);
        results(run(function, &with), &with);
    }
    free(room);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--functions") == 0) {
        for (int i = 0; i < COUNT; i++) puts(NAMES[i]);
        return 0;
    }
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100;
    all_null();
    odd_orders();
    forked();
    CHECK(viproute_open(CONFIG, &manager, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_open(CONFIG, CLAIM, &keeper, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_watcher_open(manager, &watcher, NULL) == VIPROUTE_CODE_OK);
    pthread_t threads[2];
    unsigned seeds[2] = {rounds, rounds + 1};
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, random_calls, &seeds[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    viproute_free(manager);
    viproute_keeper_free(keeper);
    viproute_watcher_free(watcher);
    puts("all checks passed");
    return 0;
}
