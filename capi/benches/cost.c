// How long viproute_assign takes from C, for new VIPs and for VIPs that are on the link already.
// capi/bench runs it.
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <viproute.h>

static viproute_manager *manager;
static viproute_vip vips[10000];

static void check(viproute_code code, viproute_error *error) {
    if (code == VIPROUTE_CODE_OK) return;
    fprintf(stderr, "%s\n", viproute_error_message(error));
    exit(1);
}

static double assign(size_t count) {
    struct timespec began, ended;
    viproute_report *report;
    viproute_error *error;
    clock_gettime(CLOCK_MONOTONIC, &began);
    check(viproute_assign(manager, vips, count, &report, &error), error);
    viproute_report_free(report);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    return (double)(ended.tv_sec - began.tv_sec) * 1e6 + (double)(ended.tv_nsec - began.tv_nsec) / 1e3;
}

static double least(double a, double b) {
    return a < b ? a : b;
}

int main(void) {
    const size_t sizes[3][2] = {{1, 300}, {100, 50}, {10000, 3}};
    viproute_error *error;
    check(viproute_open("{\"link\": \"kube-dummy-if\", \"sources\": [\"192.0.2.10\"]}", &manager, &error), error);
    for (uint32_t i = 0; i < 10000; i++) {
        uint32_t address = htonl(0x0a600001 + i);
        vips[i].family = AF_INET;
        memcpy(vips[i].address, &address, sizeof address);
    }
    for (int i = 0; i < 3; i++) {
        size_t count = sizes[i][0], rounds = sizes[i][1];
        double new = 1e9, present = 1e9;
        for (size_t round = 0; round < rounds; round++) {
            new = least(new, assign(count));
            for (int i = 0; i < 5; i++) present = least(present, assign(count));
            check(viproute_release(manager, vips, count, NULL, &error), error);
        }
        // In microseconds.
        printf("C|new|%zu|%.1f\nC|present|%zu|%.1f\n", count, new, count, present);
    }
    viproute_free(manager);
    return 0;
}
