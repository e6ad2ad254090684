// A reader of ccm's answers that nobody here wrote: @ai-sdk/anthropic, whose schemas refuse what the Messages API lacks.
// usage: node read_ai_sdk.mjs NODE_MODULES BASE_URL TOKEN; one JSON question per line of stdin, one reading per line out.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [modules, baseURL, token] = process.argv.slice(2);
const found = createRequire(modules + '/from-here.js').resolve('@ai-sdk/anthropic');
const { createAnthropic } = await import(pathToFileURL(found));

async function read({ provider, model, tools, thinking, stream }) {
  const sdk = createAnthropic({ baseURL: baseURL + '/v1', apiKey: token, headers: { 'x-ccm-provider': provider } });
  const options = {
    prompt: [{ role: 'user', content: [{ type: 'text', text: 'Go on, please.' }] }],
    maxOutputTokens: 4096,
    tools: tools.map(name => ({ type: 'function', name, inputSchema: { type: 'object', properties: {} } })),
    providerOptions: thinking ? { anthropic: { thinking: { type: 'enabled', budgetTokens: 2048 } } } : {},
  };
  const out = { text: '', reasoning: '', tools: [], stop: null, errors: [] };
  const take = part => {
    if (part.type === 'text-delta' || (part.type === 'text' && 'text' in part)) out.text += part.delta ?? part.text;
    else if (part.type === 'reasoning-delta' || part.type === 'reasoning') out.reasoning += part.delta ?? part.text;
    else if (part.type === 'tool-call' && !part.providerExecuted) out.tools.push([part.toolName, part.input]);
    else if (part.type === 'error') out.errors.push(String(part.error?.message ?? JSON.stringify(part.error)));
    else if (part.type === 'finish') out.stop = part.finishReason?.raw ?? part.finishReason;
  };
  if (stream) {
    const answer = await sdk(model).doStream(options);
    const reader = answer.stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      take(value);
    }
  } else {
    const answer = await sdk(model).doGenerate(options);
    answer.content.forEach(take);
    out.stop = answer.finishReason?.raw ?? answer.finishReason;
  }
  return out;
}

for await (const line of createInterface({ input: process.stdin })) {
  let out;
  try {
    out = await read(JSON.parse(line));
  } catch (error) {
    out = { errors: [`${error.name}: ${error.message}`], status: error.statusCode ?? 0 };
  }
  process.stdout.write(JSON.stringify(out) + '\n');
}
