// Puts VIPs on kube-dummy-if: cc assign.c $(pkg-config --cflags --libs viproute) && ./a.out 192.0.2.10 10.96.0.10
#include <arpa/inet.h>
#include <stdio.h>
#include <viproute.h>

int main(int argc, char **argv) {
    char config[128];
    viproute_vip vips[16];
    viproute_failure failures[16];
    viproute_manager *manager = NULL;
    viproute_report *report = NULL;
    viproute_error *error = NULL;
    size_t count = 0;

    if (argc < 3 || argc > 18) return 2;
    snprintf(config, sizeof config, "{\"link\": \"kube-dummy-if\", \"sources\": [\"%.46s\"]}", argv[1]);
    for (; count < (size_t)argc - 2; count++) {
        vips[count].family = AF_INET;
        if (inet_pton(AF_INET, argv[count + 2], vips[count].address) != 1) return 2;
    }
    if (viproute_open(config, &manager, &error) == VIPROUTE_CODE_OK)
        viproute_assign(manager, vips, count, &report, &error);
    count = viproute_report_failures(report, 0, failures, sizeof *failures, 16);
    for (size_t i = 0; i < count; i++) fprintf(stderr, "%s\n", failures[i].message);
    if (error) fprintf(stderr, "%s\n", viproute_error_message(error));
    if (report) printf("%s\n", viproute_report_json(report));
    count = error != NULL;
    viproute_error_free(error);
    viproute_report_free(report);
    viproute_free(manager);
    return (int)count;
}
