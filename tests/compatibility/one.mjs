// Runs artifacts in onnxruntime-web under Node, as one.py does in other runtimes:
// node one.mjs FOLDER NAME...

import fs from "node:fs";
import path from "node:path";
import * as ort from "onnxruntime-web";

ort.env.logLevel = "fatal";
ort.env.wasm.numThreads = 1;

async function largestError(folder, name) {
  const document = JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), "utf-8"));
  const model = fs.readFileSync(path.join(folder, `${name}.onnx`));
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [, ...shape] = document.images.shape;
  const pixels = shape.reduce((product, size) => product * size, 1);
  let largest = 0;
  for (const batch of document.batches) {
    const values = Float32Array.from(document.images.values.slice(0, batch * pixels));
    const outputs = await session.run({ image: new ort.Tensor("float32", values, [batch, ...shape]) });
    for (const [output, golden] of Object.entries(document.golden)) {
      const expected = [batch, ...golden.shape.slice(1)];
      const found = outputs[output];
      if (found.type !== "float32" || `${found.dims}` !== `${expected}`) {
        throw new Error(`${output} is ${found.type} [${found.dims}]`);
      }
      found.data.forEach((value, index) => {
        const error = Math.abs(value - golden.values[index]);
        if (!Number.isFinite(error)) throw new Error(`${output} is not finite`);
        largest = Math.max(largest, error);
      });
    }
  }
  return largest;
}

const [folder, ...names] = process.argv.slice(2);
for (const name of names) {
  const result = { artifact: name };
  try {
    result.error = await largestError(folder, name);
  } catch (error) {
    result.failure = String(error.message ?? error).replace(/\s+/g, " ").slice(-160);
  }
  console.log(JSON.stringify(result));
}
