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

static void all_null(void) {
    viproute_error *error = NULL;
    viproute_report *report = NULL;
    viproute_counts counts = {.assigned = 7};
    viproute_counters counters = {.repairs = 7};
    viproute_audit_state state = {.vips = 7};
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
    CHECK(viproute_audit(NULL, 0, NULL, NULL) == bad);
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
    CHECK(counters.repairs == 0 && counts.assigned == 0 && state.vips == 0);
    CHECK(viproute_report_outcomes(NULL, 1, NULL, 1, 1) == 0);
    CHECK(viproute_report_failures(NULL, 0, NULL, 0, 9) == 0);
    CHECK(viproute_audit_vips(NULL, 0, NULL, 0, 9) == 0);
    CHECK(viproute_report_json(NULL) == NULL && viproute_audit_json(NULL) == NULL);
    CHECK(viproute_error_code(NULL) == VIPROUTE_CODE_OK && viproute_error_errno(NULL) == 0);
    CHECK(viproute_error_message(NULL) == NULL);
    viproute_cancel(NULL);
    viproute_keeper_cancel(NULL);
    viproute_free(NULL);
    viproute_keeper_free(NULL);
    viproute_report_free(NULL);
    viproute_audit_free(NULL);
    viproute_error_free(NULL);
    CHECK(viproute_code_name(-1) == NULL && viproute_cause_name(1000000) == NULL);
    CHECK(strcmp(viproute_version(), "") != 0);
}

// A keeper that is used before it has an order, and objects that outlive their handle.
static void odd_orders(void) {
    viproute_keeper *keeper = NULL;
    viproute_manager *manager = NULL;
    viproute_report *report = NULL;
    viproute_audit_result *audit = NULL;
    viproute_error *error = NULL;
    viproute_vip one = vip("10.96.0.1");

    CHECK(viproute_keeper_open(CONFIG, CLAIM, &keeper, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_fd(keeper) >= 0 && viproute_keeper_deadline(keeper) == -1);
    CHECK(viproute_keeper_dispatch(keeper, 0, NULL, 0, NULL, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_remove(keeper, &one, 1, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_set(keeper, DANGLING, 0, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_dispatch(keeper, 1, NULL, 0, &report, &error) == VIPROUTE_CODE_OK);
    viproute_keeper_free(keeper);
    CHECK(viproute_report_json(report) == viproute_report_json(report));
    done(VIPROUTE_CODE_OK, report, error);

    CHECK(viproute_open(CONFIG, &manager, &error) == VIPROUTE_CODE_OK && error == NULL);
    one.family = 99;
    CHECK(viproute_assign(manager, &one, 1, &report, &error) == VIPROUTE_CODE_INVALID_ARGUMENT);
    CHECK(report == NULL);
    CHECK(viproute_audit(manager, VIPROUTE_AUDIT_NODE, &audit, NULL) == VIPROUTE_CODE_OK);
    viproute_free(manager);
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
    viproute_vip one = vip("10.96.0.1");
    int status = 0;
    CHECK(viproute_open(CONFIG, &manager, NULL) == VIPROUTE_CODE_OK);
    pid_t child = fork();
    if (child == 0) _exit((int)viproute_assign(manager, &one, 1, NULL, NULL));
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == VIPROUTE_CODE_OTHER_PROCESS);
    CHECK(viproute_assign(manager, &one, 1, NULL, NULL) == VIPROUTE_CODE_OK);
    viproute_free(manager);
}

// What the threads share.
static viproute_manager *manager;
static viproute_keeper *keeper;

// Each argument is good or bad at random. No answer but a code of the header, and no crash.
static void *random_calls(void *argument) {
    unsigned *seed = argument;
    const viproute_vip good[3] = {vip("10.96.0.2"), vip("2001:db8:42:1::2"), vip("127.0.0.1")};
    const char *claims[4] = {CLAIM, "{\"claim\": \"link\", \"at_most\": 0}", "{\"clam\": 1}", NULL};
    unsigned rounds = *seed;
    for (unsigned i = 0; i < rounds; i++) {
        unsigned r = (unsigned)rand_r(seed);
        viproute_report *report = NULL, **reports = r & 1 ? &report : NULL;
        viproute_error *error = NULL, **errors = &error;
        viproute_audit_result *audit = NULL;
        size_t count = (r >> 1) % 4;
        const viproute_vip *vips = count == 0 ? DANGLING : (r >> 3) % 8 == 0 ? NULL : good;
        viproute_manager *m = (r >> 6) % 16 == 0 ? NULL : manager;
        viproute_keeper *k = (r >> 6) % 16 == 0 ? NULL : keeper;
        const char *claim = claims[(r >> 10) % 4];
        const viproute_vip *source = (r >> 12) % 2 ? good : NULL;
        viproute_dispatched dispatched;
        size_t size = (r >> 12) % 2 ? sizeof dispatched : (r >> 13) % 9;
        viproute_counters counters;
        viproute_code code = VIPROUTE_CODE_OK;
        switch ((r >> 16) % 14) {
        case 0: code = viproute_assign(m, vips, count, reports, errors); break;
        case 1: code = viproute_normalize(m, reports, errors); break;
        case 2: code = viproute_release(m, vips, count, reports, errors); break;
        case 3: code = viproute_reconcile(m, claim, vips, count, reports, errors); break;
        case 4: code = viproute_release_all(m, claim, reports, errors); break;
        case 5: code = viproute_set_source(m, source ? &good[2] : NULL, reports, errors); break;
        case 6:
            code = viproute_audit(m, (r >> 12) % 3, &audit, errors);
            viproute_audit_free(audit);
            break;
        case 7: code = viproute_keeper_set(k, vips, count, errors); break;
        case 8: code = viproute_keeper_add(k, vips, count, errors); break;
        case 9: code = viproute_keeper_remove(k, vips, count, errors); break;
        case 10: code = viproute_keeper_set_source(k, source ? &good[2] : NULL, errors); break;
        case 11:
            code = viproute_keeper_dispatch(k, count, source ? &dispatched : NULL, size, reports, errors);
            break;
        case 12:
            viproute_keeper_counters(k, source ? &counters : NULL, (r >> 13) % sizeof counters);
            CHECK(viproute_keeper_deadline(k) >= -1);
            break;
        case 13: (r >> 12) % 2 ? viproute_cancel(m) : viproute_keeper_cancel(k); break;
        }
        CHECK(code != VIPROUTE_CODE_PANIC);
        if (code != VIPROUTE_CODE_OK && error == NULL) CHECK(!"an error comes with a code");
        done(code, report, error);
    }
    return NULL;
}

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100;
    all_null();
    odd_orders();
    forked();
    CHECK(viproute_open(CONFIG, &manager, NULL) == VIPROUTE_CODE_OK);
    CHECK(viproute_keeper_open(CONFIG, CLAIM, &keeper, NULL) == VIPROUTE_CODE_OK);
    pthread_t threads[2];
    unsigned seeds[2] = {rounds, rounds + 1};
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, random_calls, &seeds[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    viproute_free(manager);
    viproute_keeper_free(keeper);
    puts("all checks passed");
    return 0;
}
