"""Chat templates that write as the newest families do: turns, reasoning, calls and results, in words of our own."""

_MISTRAL = """{{- bos_token }}
{%- if messages[0].role == 'system' %}[SYSTEM_PROMPT]{{ messages[0].content }}[/SYSTEM_PROMPT]
{%- set messages = messages[1:] %}{% endif %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]
{%- elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}
{{- '[TOOL_RESULTS]' + m.tool_call_id + '[TOOL_CONTENT]' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.role == 'assistant' %}THOUGHT{{ m.content if m.content }}
{%- for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}
{%- endfor %}{{ eos_token }}{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}"""

_GLM = """[gMASK]<sop>{% if tools %}<|system|>
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}
{%- set last = namespace(user=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{% if m.role == 'user' %}<|user|>
{{ m.content }}{% elif m.role == 'system' %}<|system|>
{{ m.content }}{% elif m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}<|observation|>{% endif %}
<tool_response>
{{ m.content }}
</tool_response>{% else %}<|assistant|>
{%- if m.reasoning_content and loop.index0 > last.user %}
<think>{{ m.reasoning_content.strip() }}</think>{% else %}
<think></think>{% endif %}
{%- if m.content.strip() %}{{ '\n' + m.content.strip() }}{% endif %}
{%- for c in m.tool_calls or [] %}{{ '\n<tool_call>' + c.function.name }}
{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v if v is string else v | tojson }}</arg_value>
{% endfor %}</tool_call>{% endfor %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>PROMPT{% endif %}"""

_KIMI = """{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}
{%- for m in messages %}{% if m.role == 'assistant' %}<|im_assistant|>assistant<|im_middle|>THOUGHT
{%- if m.content %}{{ m.content }}{% endif %}
{%- if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}
{{- '<|tool_call_begin|>' + (c.id or 'functions.x:0') + '<|tool_call_argument_begin|>' }}
{{- c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}
{%- elif m.role == 'tool' %}{{ '<|im_system|>tool<|im_middle|>## Return of ' + m.tool_call_id + '\n' + m.content }}
{%- elif m.role == 'system' %}<|im_system|>system<|im_middle|>{{ m.content }}
{%- else %}<|im_user|>user<|im_middle|>{{ m.content }}{% endif %}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"""

_XML_CALL = """{% for c in m.tool_calls %}OPEN{{ c.function.name }}CLOSE
{% for k, v in c.function.arguments.items() %}KEY{{ k }}ENDKEY{{ v if v is string else v | tojson }}ENDVALUE
{% endfor %}END
{% endfor %}"""


def _xml(**marks: str) -> str:
    text = _XML_CALL
    for name in sorted(marks, key=len, reverse=True):
        text = text.replace(name, marks[name])
    return text


_MINIMAX = (
    """]~!b[{% set system = messages[0].content if messages[0].role == 'system' %}]~b]system
{{ system or 'You are MiniMax.' }}{% if tools %}
<tools>{% for t in tools %}
<tool>{{ t.function | tojson }}</tool>{% endfor %}
</tools>{% endif %}[e~[
{% for m in messages %}{% if m.role == 'assistant' %}]~b]ai
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}{% if m.tool_calls %}
<minimax:tool_call>
"""
    + _xml(
        OPEN='<invoke name="',
        CLOSE='">',
        KEY='<parameter name="',
        ENDKEY='">',
        ENDVALUE="</parameter>",
        END="</invoke>",
    )
    + """</minimax:tool_call>{% endif %}[e~[
{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}]~b]tool{% endif %}
<response>{{ m.content }}</response>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}[e~[
{% endif %}{% elif m.role == 'user' %}]~b]user
{{ m.content }}[e~[
{% endif %}{% endfor %}{% if add_generation_prompt %}]~b]ai
<think>
{% endif %}"""
)

_DEEPSEEK_TURNS = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- if tools %}

## Tools
{{ tools | tojson }}{% endif %}
{%- for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}
{%- elif m.role == 'tool' %}RESULT{% elif m.role == 'assistant' %}
{%- if messages[loop.index0 - 1].role == 'user' %}<｜Assistant｜></think>{% endif %}
{{- m.content }}{% if m.tool_calls %}CALLS{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}
{%- if add_generation_prompt and messages[-1].role == 'user' %}<｜Assistant｜></think>{% endif %}"""

_SEED = (
    """{% for m in messages %}{{ bos_token }}{{ m.role }}
{% if m.role == 'assistant' %}{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>
{%- endif %}{{ m.content }}{% if m.tool_calls %}
<seed:tool_call>
"""
    + _xml(OPEN="<function=", CLOSE=">", KEY="<parameter=", ENDKEY=">", ENDVALUE="</parameter>", END="</function>")
    + """</seed:tool_call>{% endif %}{% else %}{{ m.content }}{% if loop.first and tools %}
{{ tools | tojson }}{% endif %}{% endif %}{{ eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ bos_token }}assistant
{% endif %}"""
)

_COMMAND = """{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Preamble
{% if tools %}{{ tools | tojson }}{% endif %}<|END_OF_TURN_TOKEN|>
{%- for m in messages %}<|START_OF_TURN_TOKEN|>
{%- if m.role == 'system' %}<|SYSTEM_TOKEN|>{{ m.content }}
{%- elif m.role == 'user' %}<|USER_TOKEN|>{{ m.content }}
{%- elif m.role == 'tool' %}<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>
[{"tool_call_id": "0", "results": {"0": {{ m.content | tojson }}}}]<|END_TOOL_RESULT|>
{%- else %}<|CHATBOT_TOKEN|>{% if m.reasoning_content %}<|START_THINKING|>{{ m.reasoning_content }}<|END_THINKING|>
{%- endif %}{% if m.tool_calls %}<|START_ACTION|>[{% for c in m.tool_calls %}
{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}", "parameters":
{{- c.function.arguments | tojson }}}{{ ',' if not loop.last }}{% endfor %}
]<|END_ACTION|>{% else %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}{% endif %}
{{- '<|END_OF_TURN_TOKEN|>' }}{% endfor %}
{%- if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"""

_GRANITE = """{% set first = messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' %}
<|start_of_role|>system<|end_of_role|>{{ first }}{% if tools %}
<tools>{% for t in tools %}
{{ t | tojson }}{% endfor %}
</tools>{% endif %}<|end_of_text|>
{% for m in messages if m.role != 'system' %}{% if m.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}<|start_of_role|>user<|end_of_role|>{% endif %}
<tool_response>
{{ m.content }}
</tool_response>{% if loop.last or loop.nextitem.role != 'tool' %}<|end_of_text|>
{% endif %}{% else %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end_of_text|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""

_HUNYUAN = """{% if messages[0].role == 'system' %}<｜hy_begin▁of▁sentence｜>{{ messages[0].content }}
{%- else %}<｜hy_begin▁of▁sentence｜>{% endif %}<｜hy_place▁holder▁no▁3｜>
{%- for m in messages %}{% if m.role == 'user' %}<｜hy_User｜>{{ m.content }}{% elif m.role == 'assistant' %}
{%- set text = m.content.split('<answer>')[-1].split('</answer>')[0].strip() if '<answer>' in m.content
    else m.content %}
<｜hy_Assistant｜>{{ text }}<｜hy_place▁holder▁no▁2｜>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<｜hy_Assistant｜>{% else %}<｜hy_place▁holder▁no▁8｜>{% endif %}"""

_ERNIE = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}
{% elif m.role == 'assistant' %}Assistant: {{ m.content }}<|end_of_sentence|>
{%- elif m.role == 'system' %}{{ m.content + '\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"""

_ERNIE_THINKING = """{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{% if m.role == 'system' %}<system_setting>
{{ m.content }}
</system_setting>{% elif m.role == 'tool' %}<tool_output>
{{ m.content }}
</tool_output>{% elif m.role == 'assistant' %}{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>
{% endif %}{% if m.content %}
<response>
{{ m.content }}
</response>
{% endif %}{% for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>
{% endfor %}{% else %}{{ m.content }}{% endif %}<|im_end|>

{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""

_NEMOTRON = """<SPECIAL_10>System
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% if tools %}
<AVAILABLE_TOOLS>{{ tools | tojson }}</AVAILABLE_TOOLS>{% endif %}
{% for m in messages %}{% if m.role == 'user' %}
<SPECIAL_11>User
{{ m.content.replace('/think', '').replace('/no_think', '').strip() }}
{% elif m.role == 'tool' %}
<SPECIAL_11>User
<TOOL_RESPONSE>[{{ m.content }}]</TOOL_RESPONSE>
{% elif m.role == 'assistant' %}
<SPECIAL_11>Assistant
{% if '</think>' in m.content %}{{ m.content.split('</think>')[1].strip() }}{% else %}{{ m.content.strip() }}{% endif %}
{%- if m.tool_calls %}<TOOLCALL>[{% for c in m.tool_calls %}
{{- {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{{ ', ' if not loop.last }}
{%- endfor %}]</TOOLCALL>{% endif %}
<SPECIAL_12>
{% endif %}{% endfor %}{% if add_generation_prompt %}
<SPECIAL_11>Assistant
<think>
{% endif %}"""

_SMOLLM = """<|im_start|>system
## Metadata

Today: {{ strftime_now('%d %B %Y') }}
Reasoning Mode: /no_think

{% if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '').rstrip() }}
{% else %}You are SmolLM.
{% endif %}{% if tools %}### Tools
<tools>
{% for t in tools %}{{ t.function | string }}
{% endfor %}</tools>
{% endif %}<|im_end|>
{% for m in messages %}{% set text = m.content if m.content is string else '' %}
{%- if m.role == 'user' %}<|im_start|>user
{{ text }}<|im_end|>
{% elif m.role == 'assistant' %}{% generation %}<|im_start|>assistant
<think>

</think>
{{ text.lstrip('\n') }}<|im_end|>
{% endgeneration %}{% elif m.role == 'tool' %}<|im_start|>user
{{ text }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>

</think>
{% endif %}"""

_OLMO = """{% set has = messages | selectattr('role', 'equalto', 'system') | list %}{% if not has %}<|im_start|>system
You are Olmo. <functions>{{ tools | tojson if tools }}</functions><|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system
{{ m.content }} <functions>{{ tools | tojson if tools }}</functions><|im_end|>
{% elif m.role == 'user' %}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{{ m.content if m.content }}{% if m.tool_calls %}<function_calls>{% for c in m.tool_calls %}{{ c.function.name }}(
{%- for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %})
{{- '\n' if not loop.last }}{% endfor %}</function_calls>{% endif %}{{ '<|im_end|>\n' if not loop.last else eos_token }}
{%- elif m.role == 'tool' %}<|im_start|>environment
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
THINK{% endif %}"""

_PHI = """{% for m in messages %}{% if m.role == 'system' and tools %}<|system|>{{ m.content }}
{{- '<|tool|>' }}{{ tools | tojson }}<|/tool|>
{%- else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}
{%- if m.tool_calls %}<|tool_call|>[{% for c in m.tool_calls %}{{ c.function | tojson }}{{ ', ' if not loop.last }}
{%- endfor %}]<|/tool_call|>{% endif %}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"""

_EXAONE = """{% if tools %}[|system|]
# Available Tools
{{ tools | tojson }}[|endofturn|]
{% endif %}{% for m in messages %}[|{{ m.role }}|]
{% if m.role == 'assistant' %}<think>
{{ m.reasoning_content or '' }}
</think>

{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>
{%- endfor %}[|endofturn|]
{% elif m.role == 'tool' %}<tool_result>{{ m.content }}</tool_result>[|endofturn|]
{% else %}{{ m.content }}[|endofturn|]
{% endif %}{% endfor %}{% if add_generation_prompt %}[|assistant|]
<think>

</think>

{% endif %}"""

_LLAMA4 = """{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}
{%- set messages = messages[1:] %}<|header_start|>system<|header_end|>

{{ system }}<|eot|>{% endif %}{% if tools %}<|header_start|>user<|header_end|>

{{ tools | tojson }}

{{ messages[0].content | trim }}<|eot|>{% set messages = messages[1:] %}{% endif %}
{%- for m in messages %}<|header_start|>{{ 'ipython' if m.role == 'tool' else m.role }}<|header_end|>

{% if m.tool_calls %}<|python_start|>{{ m.content }}<|python_end|>{% for c in m.tool_calls %}
{{- {'name': c.function.name, 'parameters': c.function.arguments} | tojson }}{% endfor %}<|eom|>
{%- elif m.role == 'tool' %}{{ m.content | tojson }}<|eot|>{% else %}{{ m.content | trim }}<|eot|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|header_start|>assistant<|header_end|>

{% endif %}"""

# Kimi-K3: every element is closed by the same special token, and the message by another.
_KIMI3 = """{% macro open(tag, attrs='') %}<|open|>{{ tag }}{{ attrs }}<|sep|>{% endmacro %}
{% macro close(tag) %}<|close|>{{ tag }}<|sep|>{% endmacro %}
{% if tools %}{{- open('message', ' role="system" type="tool-declare"') + (tools | tojson) + close('message') }}
{{- '<|end_of_msg|>' }}{% endif %}
{%- for m in messages %}{{- open('message', ' role="' + m.role + '"') }}
{%- if m.role == 'assistant' %}{{- open('think') + (m.reasoning_content or '') + close('think') }}
{{- open('response') + m.content + close('response') }}
{%- if m.tool_calls %}{{- open('tools') }}{% for c in m.tool_calls %}
{{- open('call', ' tool="' + c.function.name + '" index="' + loop.index | string + '"') }}
{%- for k, v in c.function.arguments.items() %}{{- open('argument', ' key="' + k + '"') }}
{{- (v if v is string else v | tojson) + close('argument') }}{% endfor %}
{{- close('call') }}{% endfor %}{{- close('tools') }}{% endif %}
{%- else %}{{- m.content }}{% endif %}
{{- close('message') + '<|end_of_msg|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- open('message', ' role="assistant"') + open('think') }}{% endif %}"""

# Apriel: it asks for an answer by itself, opens the reasoning by words, and ends no last answer.
_APRIEL = """{% for m in messages %}{% if m.role == 'system' %}<|begin_system|>
Explain your steps, then answer after [BEGIN FINAL RESPONSE].
{{ m.content }}
{% if tools %}<available_tools>{{ tools | string }}</available_tools>
{% endif %}{% elif m.role == 'user' %}<|begin_user|>
{{ m.content }}{% elif m.role == 'assistant' %}
{{ '\n<|begin_assistant|>\n' }}
{%- if m.reasoning_content and loop.last %}{{ m.reasoning_content + '\n[BEGIN FINAL RESPONSE]\n' }}{% endif %}
{%- if not loop.last and '[BEGIN FINAL RESPONSE]' in m.content %}
{{- m.content.split('[BEGIN FINAL RESPONSE]')[-1] | trim }}{% else %}{{- m.content }}{% endif %}
{%- if m.tool_calls %}{{ '\n<tool_calls>[' }}{% for c in m.tool_calls %}
{{- '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson }}
{%- if not loop.last %}, "id": "{{ c.id }}"{% endif %}{{ '}' }}{{ ', ' if not loop.last }}{% endfor %}
{{- ']</tool_calls>' }}{% endif %}{% if not loop.last %}{{ '\n<|end|>\n' }}{% endif %}
{% elif m.role == 'tool' %}<|begin_tool_result|>
{{ m.content | string }}
{% endif %}{% if loop.last and m.role != 'assistant' %}
{{ '\n<|begin_assistant|>\nHere are my reasoning steps:\n' }}{% endif %}{% endfor %}"""

_STEP = """{{ bos_token }}{% if tools or messages[0].role == 'system' %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% if tools %}

<tools>{{ tools | tojson }}</tools>{% endif %}<|im_end|>
{% endif %}{% set last = namespace(user=-1) %}{% for m in messages %}
{%- if m.role == 'user' and not m.content.startswith('<tool_response>') %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}
{%- set text = m.content %}{% set thought = m.reasoning_content or '' %}
{%- if not thought and '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1] %}
{%- set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > last.user %}{{ '<think>\n' + thought + '\n</think>\n' }}{% endif %}{{ text }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>\n<function=' + c.function.name + '>\n' }}
{%- for k, v in c.function.arguments | items %}{{ '<parameter=' + k + '>\n' }}
{{- v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}
{{- '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}{{ '<|im_start|>tool_response\n' if messages[loop.index0 - 1].role != 'tool' }}
{{- '<tool_response>' + m.content + '</tool_response>' }}
{{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""

# Apertus: blocks of reasoning, calls and answers in one turn; what a tool says stands in the assistant's turn.
_APERTUS = """{{ bos_token }}<|system_start|>{{ messages[0].content if messages[0].role == 'system' else 'Apertus' }}
{{- '<|system_end|><|developer_start|>Deliberation: disabled\nTool Capabilities:' }}
{{- ' disabled' if not tools else '\n' + tools | tojson }}<|developer_end|>
{%- set ns = namespace(inside=false, loose=false) %}
{%- for m in messages %}{% if m.role == 'user' %}
{%- if ns.inside %}<|assistant_end|>{% set ns.inside = false %}{% endif %}
{{- '<|user_start|>' + m.content + '<|user_end|>' }}{% elif m.role == 'assistant' %}
{%- if not ns.inside %}<|assistant_start|>{% set ns.inside = true %}{% endif %}
{{- m.content }}{% if m.tool_calls %}<|tools_prefix|>[{% for c in m.tool_calls %}
{{- '{"' + c.function.name + '": ' + c.function.arguments | tojson + '}' }}{{ ', ' if not loop.last }}{% endfor %}
{{- ']<|tools_suffix|>' }}{% endif %}
{%- elif m.role == 'tool' %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}
{%- if ns.inside and not add_generation_prompt %}<|assistant_end|>{% endif %}
{%- if add_generation_prompt and not ns.inside %}<|assistant_start|>{% endif %}"""

_LING = """<role>SYSTEM</role>{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}
{%- if tools %}<tools>{% for t in tools %}{{ '\n' + t | tojson }}{% endfor %}{{ '\n</tools>' }}{% endif %}
{{- 'detailed thinking off<|role_end|>' }}
{%- for m in messages %}{% if m.role == 'user' %}<role>HUMAN</role>{{ m.content }}<|role_end|>
{%- elif m.role == 'assistant' %}<role>ASSISTANT</role>
{%- if m.reasoning_content %}{{ '\n<think>\n' + m.reasoning_content + '\n</think>\n' }}{% endif %}{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}{{ '<tool_call>\n{"name": "' }}
{{- c.function.name + '", "arguments": ' + c.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}<|role_end|>
{%- elif m.role == 'tool' %}{{ '<role>OBSERVATION</role>' if messages[loop.index0 - 1].role != 'tool' }}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{{- '<|role_end|>' if loop.last or messages[loop.index0 + 1].role != 'tool' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"""

_PHI4 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

# Solar-Open, K-EXAONE and gpt-oss alike: reasoning and answer are two messages, each with its own end.
_CHANNELS = """<|begin|>system<|content|>You are Solar.{% if tools %}
{{ tools | tojson }}{% endif %}<|end|>
{%- for m in messages %}{% if m.role == 'assistant' %}
{%- if m.reasoning_content %}<|begin|>assistant<|think|>{{ m.reasoning_content }}<|end|>{% endif %}
{%- if m.tool_calls %}{% if m.content %}<|begin|>assistant<|content|>{{ m.content }}<|end|>{% endif %}
{{- '<|begin|>assistant<|tool_calls|>' }}{% for c in m.tool_calls %}<|tool_call:begin|>{{ c.id }}<|tool_call:name|>
{{- c.function.name }}<|tool_call:args|>{{ c.function.arguments | tojson }}<|tool_call:end|>{% endfor %}<|calls|>
{%- else %}<|begin|>assistant<|content|>{{ m.content }}<|end|>{% endif %}
{%- elif m.role == 'tool' %}<|begin|>tool<|tool_response|>{{ m.content }}<|end|>
{%- else %}<|begin|>{{ m.role }}<|content|>{{ m.content }}<|end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|begin|>assistant{% endif %}"""

_DSML = _xml(
    OPEN='<｜DSML｜invoke name="',
    CLOSE='">',
    KEY='<｜DSML｜parameter name="',
    ENDKEY='" string="true">',
    ENDVALUE="</｜DSML｜parameter>",
    END="</｜DSML｜invoke>",
)
_TOKEN_CALL = (
    "<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>"
    "{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>"
)
_TOKEN_RESULT = "<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
FAMILIES = {
    "Mistral-Small-3.2": _MISTRAL.replace("THOUGHT", ""),
    "Magistral": _MISTRAL.replace("THOUGHT", "{% if m.thinking %}{{ '[THINK]' + m.thinking + '[/THINK]' }}{% endif %}"),
    "GLM-4.6": _GLM.replace("PROMPT", ""),
    "GLM-4.6 without thinking": _GLM.replace("PROMPT", "\n<think></think>"),
    "GLM-5": _GLM.replace("\n<think>", "<think>").replace("PROMPT", "<think>"),
    "Kimi-K2": _KIMI.replace("THOUGHT", ""),
    "Kimi-K2-Thinking": _KIMI.replace("THOUGHT", "<think>{{ m.reasoning_content or '' }}</think>"),
    "MiniMax-M2": _MINIMAX,
    "DeepSeek-V3.1": _DEEPSEEK_TURNS.replace("CALLS", _TOKEN_CALL).replace("RESULT", _TOKEN_RESULT),
    "DeepSeek-V3.2": _DEEPSEEK_TURNS.replace(
        "CALLS", "\n\n<｜DSML｜function_calls>\n" + _DSML + "</｜DSML｜function_calls>"
    ).replace("RESULT", "<function_results>{{ m.content }}</function_results><｜Assistant｜></think>"),
    "Seed-OSS": _SEED,
    "Command-A": _COMMAND,
    "Granite-4": _GRANITE,
    "Hunyuan": _HUNYUAN,
    "Ernie-4.5": _ERNIE,
    "Ernie-4.5-Thinking": _ERNIE_THINKING,
    "Nemotron-Nano-v2": _NEMOTRON,
    "SmolLM3": _SMOLLM,
    "Olmo-3": _OLMO.replace("THINK", ""),
    "Olmo-3-Think": _OLMO.replace("THINK", "<think>"),
    "Phi-4-mini": _PHI,
    "EXAONE-4": _EXAONE,
    "Llama-4": _LLAMA4,
    "Kimi-K3": _KIMI3,
    "Apriel-1.6": _APRIEL,
    "Step-3.7": _STEP,
    "Apertus": _APERTUS,
    "Ling-2": _LING,
    "Phi-4": _PHI4,
    "Solar-Open": _CHANNELS,
}
