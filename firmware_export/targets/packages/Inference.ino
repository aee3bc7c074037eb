// One inference on an input of zeros, over the serial monitor. The runtime's headers say how to train and to join a federation.
#include <Sanderling.h>

static int8_t arena[SL_MODEL_ARENA_BYTES] __attribute__((aligned(16)));

void setup() {
  Serial.begin(115200);
}

void loop() {
  for (uint32_t i = 0; i < sl_model.input_size; i++) {
    arena[sl_model.input + i] = 0;
  }
  uint32_t begun = micros();
  sl_run(&sl_model, 0, sl_model.node_count, arena);
  Serial.print(micros() - begun);
  Serial.print(" us:");
  for (uint32_t i = 0; i < sl_model.output_size; i++) {
    Serial.print(' ');
    Serial.print(arena[sl_model.output + i]);
  }
  Serial.println();
  delay(1000);
}
